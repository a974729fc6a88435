"""The paper's claims, and what was found of each: data/paper/claims.csv."""

import pandas as pd
from scta_lite.paper import published_table

VERDICTS = ("supported", "supported as arithmetic", "partly", "contradicted", "measured", "open")
COLUMNS = ("id", "claim", "where", "notebook", "verdict", "value", "why")


def claims() -> pd.DataFrame:
    """The claims C1 to C13 and the open questions F1 to F6, in order.

    `where` is the document that says so, `notebook` the one of notebooks/lab/ that settles it,
    `value` what was measured, `why` what follows from it. ValueError for another verdict than those
    of VERDICTS.

    >>> claims().set_index("id").verdict["C1"]
    'supported'
    """
    table = published_table("claims.csv", set(COLUMNS))
    for claim in table.itertuples():
        if claim.verdict not in VERDICTS:
            expected = f"expected one of {', '.join(VERDICTS)}"
            where = f"data/paper/claims.csv: {claim.id}"
            raise ValueError(f"{where}: verdict={claim.verdict!r}: {expected}")
    return table
