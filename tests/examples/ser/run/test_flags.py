"""Flags: what a preset sets, and combinations that are refused."""

import pytest

from examples.ser import train
from examples.ser.model.macnn import MACNN
from examples.ser.model.tdnn import TDNN
from examples.ser.run.flags import network, parse

RUN = ["--manifest", "m.csv", "--out", "o"]


def test_the_paper_preset_is_section_3_2():
    args = parse([*RUN, "--paper"])
    wanted = {
        "schedule": "constant", "validation": False, "lr": 1e-3, "weight_decay": 1e-6,
        "batch_size": 32, "epochs": 60, "seed": 987654, "train_stride": 1.0, "test_stride": 0.4,
        "threshold": 0.7, "alpha": 2.0,
    }  # fmt: skip
    assert {key: getattr(args, key) for key in wanted} == wanted


def test_a_preset_sets_what_is_not_given():
    plain, strong = parse(RUN), parse([*RUN, "--strong"])
    assert (plain.features, plain.network, plain.epochs) == ("mfcc", "macnn", 60)
    assert (strong.features, strong.network, strong.augment) == ("prosody", "tdnn", ["jitter"])
    assert parse([*RUN, "--strong", "--epochs", "3"]).epochs == 3
    assert train.parse is parse


def test_the_network_is_the_one_that_the_flags_describe():
    args = parse([*RUN, "--attention", "icasa", "--places", "conv3", "--head", "dot"])
    net = network(args, 5)
    assert isinstance(net, MACNN)
    assert (list(net.betas()), net.classifier.out_features) == (["conv3"], 5)
    strong = network(parse([*RUN, "--strong"]), 5)
    assert isinstance(strong, TDNN)
    assert strong.blocks[0][0].in_channels == 53


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--epochs", "0"], "expected --epochs above 0, got 0; raise it"),
        (["--batch-size", "-1"], "expected --batch-size above 0, got -1"),
        (["--threshold", "2"], "expected --threshold from -1 to 1, got 2.0; correct it"),
        (["--threads", "0"], "expected --threads of 1 or more, got 0; correct it"),
        (["--strong", "--head", "dot"], "expected --network macnn with --head, got tdnn; leave"),
        (["--across-speakers"], "got --across-speakers alone; add --aam"),
        (
            ["--icasa-form", "last"],
            "with --icasa-form, got macnn and icasa; leave --icasa-form out",
        ),
        (["--strong", "--attention", "sa", "--icasa-form", "faded"], "got tdnn and sa; leave"),
        (["--representation", "embedding"], "expected --aam with --representation embedding, got"),
        (["--across-utterances"], "expected --aam with --across-utterances"),
        (["--protocol", "leaky-segment"], "got leaky-segment; add --no-validation"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit):
        parse([*RUN, *flags])
    assert message in capsys.readouterr().err
