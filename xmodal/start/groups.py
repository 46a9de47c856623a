"""Tell from the names of files which belong together: clips of one recording, or of one person."""

import re

WORD = r"g|group|subject|subj|sub|person|actor|scene|session|sess|patient|participant|user|recording|rec|source|site"
PATTERNS = (
    re.compile(rf"(?i)(?:^|[_\-. /])(?P<group>(?:{WORD})[_\-]?\d+)(?=[_\-. /]|$)"),  # v_Bowling_g08_c01, subject3/...
    re.compile(r"^(?:.*/)?(?P<group>.{3,})_\d{6}_\d{6}$"),  # YouTube id, start and end: Kinetics
    re.compile(r"(?i)^(?:.*/)?(?P<group>.+?)[_\-. ](?:clip|c|part|seg|segment|chunk|cut|shot)[_\-]?\d+$"),  # film_part3
)


def group_of(name: str) -> str | None:
    """Return the group that a file's name tells; None where it tells none.

    Args:
        name: relative path of the file.
    """
    stem = re.sub(r"\.[A-Za-z0-9]{1,6}$", "", name.replace("\\", "/"))
    for pattern in PATTERNS:
        found = pattern.search(stem)
        if found:
            return found["group"].lower()
    return None
