"""Published layouts of votes, one small file each; which one a file has is told by its columns.

A new format is one `Format`, one line in `FORMATS` (before any whose columns it has too), and one
test on a verbatim record of the published file.
"""

from arena.votes.formats.argilla import ARGILLA
from arena.votes.formats.battle_log import BATTLE_LOG
from arena.votes.formats.hpd import HPD_V2, HPD_V2_PAIRS, HPD_V3
from arena.votes.formats.image_ranker import IMAGE_RANKER
from arena.votes.formats.kwise import IMAGEREWARD, KSORT, RANKINGS
from arena.votes.formats.label_studio import LABEL_STUDIO
from arena.votes.formats.likert import LIKERT
from arena.votes.formats.pickapic import PICKAPIC
from arena.votes.formats.rapidata import COUNTS, ORDER, SHARES
from arena.votes.formats.tables import BATTLES, BATTLES_ONE_HOT, COUNTED, GENAI_BENCH, IMGSYS, TABLE

# The first that knows a file's columns reads it; the votes table is asked last, and by default.
FORMATS = {
    one.name: one
    for one in (
        RANKINGS,
        KSORT,
        IMAGEREWARD,
        HPD_V3,
        HPD_V2,
        HPD_V2_PAIRS,
        ARGILLA,
        LABEL_STUDIO,
        BATTLE_LOG,
        PICKAPIC,
        COUNTS,
        COUNTED,
        SHARES,
        ORDER,
        GENAI_BENCH,
        LIKERT,
        IMAGE_RANKER,
        TABLE,
        BATTLES,
        BATTLES_ONE_HOT,
        IMGSYS,
    )
}
