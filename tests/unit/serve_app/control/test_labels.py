"""True values are kept in order, each request's first, and not without end."""

from serve_app.control import labels
from serve_app.control.labels import MOST_AT_ONCE, MOST_VALUES, Label, Labels


def test_the_first_label_of_a_request_wins() -> None:
    """Whoever sends another is told so."""
    kept = Labels(lambda: 100)
    assert kept.add(Label("a", (1.0,)))
    assert not kept.add(Label("a", (2.0,)))
    assert kept.since(100) == (101, [Label("a", (1.0,))])


def test_who_has_seen_some_gets_the_rest() -> None:
    """Who begins has missed nothing that would be of use."""
    kept = Labels(lambda: 100)
    for name in "abc":
        kept.add(Label(name, (1.0,)))
    assert kept.since(None) == (103, [])
    assert [label.request_id for label in kept.since(101)[1]] == ["b", "c"]
    assert kept.since(103) == (103, [])
    assert kept.since(5)[0] == 103  # the number of a process that came before


def test_many_labels_come_in_pages() -> None:
    """One answer must fit into one message."""
    kept = Labels(lambda: 0)
    for number in range(MOST_AT_ONCE + 5):
        kept.add(Label(str(number), (1.0,)))
    number, first = kept.since(0)
    assert len(first) == MOST_AT_ONCE
    number, rest = kept.since(number)
    assert [label.request_id for label in rest] == [str(MOST_AT_ONCE + at) for at in range(5)]
    assert kept.since(number) == (number, [])


def test_the_oldest_go_first() -> None:
    """Their requests may then be labelled again."""
    kept = Labels(lambda: 0)
    half = (1.0,) * (MOST_VALUES // 2)
    for name in "abc":
        kept.add(Label(name, half))
    assert [label.request_id for label in kept.since(0)[1]] == ["b", "c"]
    assert kept.add(Label("a", (1.0,)))


def test_numbers_of_another_process_are_older() -> None:
    """As both begin at their present time."""
    assert labels.Labels().since(None)[0] > 10**18
