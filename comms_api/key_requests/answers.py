"""Read what a source answers: exactly one JSON object of one of two shapes, and nothing else.

`{"error": 0, "data": {"id", "name", "ip", "key"}}` is an agent, `{"error": N, "message": "…"}` a refusal. No text of an
answer is in an error: wherever a broken source puts the key, it is not told on.
"""

import msgspec

from comms_api.errors import Unavailable
from comms_api.key_requests.model import Code, ExternalAgent, Question, Refusal, printable


class BadAnswer(Unavailable):
    """The external source of agents gave an answer that cannot be used."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason
        """For the operator's log, without a word of the answer."""


class _Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    error: Code
    data: ExternalAgent | msgspec.UnsetType = msgspec.UNSET
    message: str | msgspec.UnsetType = msgspec.UNSET


_ANSWERS = msgspec.json.Decoder(_Answer)


def parse_answer(answer: bytes, question: Question, bytes_maximum: int) -> ExternalAgent | Refusal:
    """Return the agent that was asked for, or the source's refusal; raises `BadAnswer` for anything else.

    An answer to a question by address must admit that address.
    """
    if len(answer) > bytes_maximum:
        raise BadAnswer(f"it is larger than {bytes_maximum} bytes")
    if not answer.strip():
        raise BadAnswer("it is empty")
    return _outcome(_decoded(answer), question)


def _decoded(answer: bytes) -> _Answer:
    try:
        return _ANSWERS.decode(answer.decode())
    except UnicodeDecodeError:
        reason = "it is not UTF-8"
    except msgspec.ValidationError as error:
        reason = _without_quotes(str(error))
    except (msgspec.DecodeError, RecursionError):
        reason = "it is not one JSON object"
    raise BadAnswer(reason)


def _without_quotes(sentence: str) -> str:
    """Return msgspec's sentence, which quotes of the answer nothing but the names of unknown fields."""
    return "it has an unknown field" if "unknown field" in sentence else sentence


def _outcome(answer: _Answer, question: Question) -> ExternalAgent | Refusal:
    if answer.error == 0 and isinstance(answer.data, ExternalAgent) and answer.message is msgspec.UNSET:
        if not answer.data.answers(question):
            raise BadAnswer(f"its agent is not the one asked for by {question.kind}")
        return answer.data
    if answer.error != 0 and isinstance(answer.message, str) and answer.data is msgspec.UNSET:
        return Refusal(answer.error, printable(answer.message))
    raise BadAnswer("error 0 comes with data and any other error with a message, never with both")
