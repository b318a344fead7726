"""Exit with 0 if the node in this container lives: `python healthcheck.py PORT`.

It asks `GET /`, not `/ready`: a node that drains lives, and should not be started again. The certificate is not
verified, since it names the machine from outside, and nothing is sent.
"""

import ssl
import sys
from http import HTTPStatus
from http.client import HTTPSConnection

TIMEOUT_SECONDS = 4


def main() -> int:
    """Ask once."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    connection = HTTPSConnection("127.0.0.1", int(sys.argv[1]), timeout=TIMEOUT_SECONDS, context=tls)
    try:
        connection.request("GET", "/")
        status = connection.getresponse().status
    except OSError:
        return 1
    return int(status != HTTPStatus.OK)


sys.exit(main())
