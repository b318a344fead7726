"""Exit with 0 if the node in this container is alive: `python healthcheck.py PORT`.

It requests `GET /`, not `/ready`: a draining node is alive and must not be restarted. It does not verify the
certificate, which is valid for the external name of the machine; the request contains no secret.
"""

import ssl
import sys
from http import HTTPStatus
from http.client import HTTPSConnection

TIMEOUT_SECONDS = 4


def main() -> int:
    """Send one request and return the exit code."""
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
