"""What gRPC says when no connection comes about, in words that tell what to do."""

from __future__ import annotations

import re

# The address that was tried last, and what became of it.
_FAILED = re.compile(r"failed to connect to all addresses; last error: \w+: \S+: (.*)", re.DOTALL)
_UNKNOWN_HOST = re.compile(r"errors resolving [^:]+:\d+: .*?([^:\]]+)\]", re.DOTALL)

# What is said by BoringSSL and gRPC. Both sides' first words fail alike where only one of them speaks TLS, and where a
# certificate is asked for that is not there: which one it was is not told.
_REASONS = (
    ("certificate has expired", "its certificate has expired"),
    ("certificate is not yet valid", "its certificate is not valid yet, by this machine's clock"),
    ("Hostname Verification Check failed", "its certificate is for another host than it was asked at"),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is of no authority that is trusted here{ca}"),
    ("WRONG_VERSION_NUMBER", "it does not speak TLS"),
    ("_ALERT_", "it does not accept the certificate that it was shown, if it was shown one{pair}"),
    ("Failed to create security handshaker", "the certificates to be used for it cannot be used"),
    ("Socket closed", "it hangs up: perhaps it speaks TLS and is asked without{ca}, or asks for a certificate{pair}"),
    ("SETTINGS frame", "it takes the connection and says nothing"),
)


def why(details: str, flags: str = "") -> str:
    """The reason in what a call failed with; other texts as they are.

    `flags` is how those begin that name the files of TLS, such as --worker- for --worker-ca: they are named then.
    """
    found = _UNKNOWN_HOST.search(details)
    if found:
        return f"its host cannot be found: {found[1].strip()}"
    found = _FAILED.fullmatch(details)
    if not found:
        return details
    for said, meant in _REASONS:
        if said in found[1]:
            pair = f" ({flags}cert, {flags}key)" if flags else ""
            return meant.format(ca=f" ({flags}ca)" if flags else "", pair=pair)
    return found[1].removeprefix("Failed to connect to remote host: ")
