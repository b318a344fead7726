"""Parse the answer of a source: exactly one JSON object of one of two shapes.

`{"error": 0, "data": {"id", "name", "ip", "key"}}` is an agent, `{"error": N, "message": "…"}` a refusal. Errors never
quote the answer, since a broken source may put the key anywhere in it.
"""

import msgspec

from comms_api.errors import Unavailable
from comms_api.key_requests.model import Code, ExternalAgent, Question, Refusal, printable


class BadAnswer(Unavailable):
    """The external source of agents returned an invalid answer."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason
        """For the operator's log; it quotes nothing from the answer."""


class _Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    error: Code
    data: ExternalAgent | msgspec.UnsetType = msgspec.UNSET
    message: str | msgspec.UnsetType = msgspec.UNSET


_ANSWERS = msgspec.json.Decoder(_Answer)


def parse_answer(answer: bytes, question: Question, bytes_maximum: int) -> ExternalAgent | Refusal:
    """Return the requested agent, or the source's refusal; raises `BadAnswer` for any other answer.

    The agent in an answer to a question by address must be allowed to log in from that address.
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
        # The name of an unknown field is the only part of msgspec's sentence that quotes the answer.
        reason = "it has an unknown field" if "unknown field" in str(error) else str(error)
    except (msgspec.DecodeError, RecursionError):
        reason = "it is not one JSON object"
    raise BadAnswer(reason)


def _outcome(answer: _Answer, question: Question) -> ExternalAgent | Refusal:
    if answer.error == 0 and isinstance(answer.data, ExternalAgent) and answer.message is msgspec.UNSET:
        if not answer.data.answers(question):
            raise BadAnswer(f"its agent does not match the requested {question.kind}")
        return answer.data
    if answer.error != 0 and isinstance(answer.message, str) and answer.data is msgspec.UNSET:
        return Refusal(answer.error, printable(answer.message))
    raise BadAnswer("error 0 needs data, any other error needs a message, and an answer must not have both")
