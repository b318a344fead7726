"""The table of attacks has a line for each attack."""

from bench.attack_table import table_of
from bench.innocent import Comparison, Pooled


def test_a_line_has_the_ratio_its_interval_and_the_latencies_in_milliseconds() -> None:
    attacked, alone = Pooled(0.007, 0.0164, 1_800, []), Pooled(0.005, 0.0081, 1_800, [])
    table = table_of({"4 costly items": Comparison(2.02, (1.7, 2.4), attacked, alone)})
    assert table.splitlines()[2:] == ["| 4, costly items | 2.02 | 1.70 to 2.40 | 7.0, 5.0 | 16.4, 8.1 |"]
