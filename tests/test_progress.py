import io

from rich.console import Console

from experiments.progress import Display, table_of_verdicts
from experiments.results import Row

FIRST = Row("LeNet", 0, 1, 2.25, 0.5, 2.0, 0.625, 1.5)


def display_on(terminal):
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=120)
    return Display(console, ["LeNet", "LeNet_BN_drop6"], runs=2, epochs=2), text


def test_without_a_terminal_each_epoch_is_one_line_without_control_codes():
    display, text = display_on(terminal=False)
    with display:
        display.now("LeNet seed 0")
        display.add([FIRST])
    header, line = text.getvalue().splitlines()
    assert header.split() == [
        "variant",
        "seed",
        "epoch",
        "train",
        "loss",
        "test",
        "accuracy",
        "seconds",
    ]
    assert line.split() == ["LeNet", "0", "1", "2.2500", "62.50%", "1.50"]
    assert len(header) == len(line)


def test_a_terminal_shows_variant_seed_epoch_accuracy_and_time_left():
    display, text = display_on(terminal=True)
    with display:
        display.now("LeNet seed 0")
        display.add([FIRST])
        display.add([FIRST._replace(epoch=2, test_accuracy=0.75)])
    screen = text.getvalue()
    for part in ("LeNet seed 0", "LeNet_BN_drop6", "2/2", "75.00%", "2/8", "left"):
        assert part in screen


def test_time_left_counts_every_epoch_that_is_still_to_come(monkeypatch):
    clock = iter([0.0, 0.0, 10.0, 10.0, 12.0, 12.0, 16.0, 16.0])
    monkeypatch.setattr("experiments.progress.perf_counter", lambda: next(clock))
    display, _ = display_on(terminal=False)
    with display:
        display.now("LeNet")  # 0 s
        display.add([FIRST])  # 10 s for an epoch: 3 more of LeNet, 4 of the other at the mean
        assert display.seconds_left() == 3 * 10 + 4 * 10
        display.add([FIRST._replace(epoch=2)])  # 2 s
        assert display.seconds_left() == 2 * 6 + 4 * 6  # 6 s in the mean of the two
        display.add([FIRST._replace(variant="LeNet_BN_drop6")])  # 4 s
        assert display.seconds_left() == 2 * 6 + 3 * 4


def test_time_left_is_right_where_several_processes_train(monkeypatch):
    # Two processes, a variant each: an epoch takes 10 s, and every 5 s one of them ends.
    now = [0.0]
    monkeypatch.setattr("experiments.progress.perf_counter", lambda: now[0])
    display, _ = display_on(terminal=False)
    variants = FIRST.variant, "LeNet_BN_drop6"
    with display:
        for epoch in (1, 2):
            for variant in variants:
                now[0] += 5
                display.add([FIRST._replace(variant=variant, epoch=epoch)])
        assert display.seconds_left() == 4 * 5  # of eight epochs four are left


def test_the_closing_screen_has_a_row_for_each_verdict_with_its_whole_sentence():
    verdicts = [
        {"number": 1, "claim": "It is slow.", "sentence": "Supported: +2% [+1.0, +3.0] (2 runs)."},
        {"number": 2, "claim": "It is right.", "sentence": "Undecided: by [red]nobody[/red]."},
    ]
    text = io.StringIO()
    Console(file=text, width=120).print(table_of_verdicts(verdicts))
    lines = text.getvalue().splitlines()
    (first,) = (line for line in lines if "It is slow." in line)
    assert "Supported: +2% [+1.0, +3.0] (2 runs)." in first
    assert any("[red]nobody[/red]" in line for line in lines)  # no markup
