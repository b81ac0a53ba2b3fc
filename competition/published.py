"""Published figures of known competitions; a paper's own are given as printed, contradictions included."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One published MAP@7. split: the queries it was measured on."""

    year: int
    team: str
    map7: float
    split: str
    note: str = ""


_WMFF = "WMFF paper (Wang et al. 2020)"

PUBLISHED: dict[str, tuple[Published, ...]] = {
    "perfect500k": (
        Published(2018, "VCA", 0.578, "test"),
        Published(2018, "GAN", 0.291, "test"),
        Published(2018, "WISLAB", 0.271, "test", "the WMFF authors"),
        Published(2018, "CISIP", 0.252, "test"),
        Published(2018, "Ivlab2017", 0.229, "test"),
        Published(2019, "USTC_NELSLIP", 0.4086, "test"),
        Published(2019, "007", 0.4072, "test"),
        Published(2020, _WMFF, 0.208, "validation", "FCroW on conv5_3, Fig. 4"),
        Published(2020, _WMFF, 0.267, "validation", "FCroW on conv5_3 again, Table 3 No. 2"),
        Published(2020, _WMFF, 0.419, "validation", "FCroW+WMFF, weights of Table 3 No. 6"),
        Published(2020, _WMFF, 0.388, "validation", "FCroW+WMFF, the same weights, Table 5"),
        Published(2020, _WMFF, 0.439, "validation", "FCroW+WMFF with query expansion, Table 5"),
    ),
}
