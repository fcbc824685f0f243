import pytest

from parcelkit.labels import Label, LabelError, check_digit, tracking_number, verify


def test_check_digits():
    assert [check_digit(serial) for serial in ("47312482", "00000000", "12345678")] == ["9", "5", "5"]
    with pytest.raises(LabelError):
        check_digit("123")


def test_verify():
    assert verify("RR473124829GB")
    assert not verify("RR473124828GB")
    assert not verify("short")
    assert verify(tracking_number("CP", 1, "DE"))


def test_label():
    label = Label("RR473124829GB", ["Ada", "30159 Hannover"])
    rows = label.render(20).splitlines()
    assert rows[1] == "| Ada              |"
    assert len(set(len(row) for row in rows)) == 1
    assert len(label.bars()) == 13 * 8
    with pytest.raises(LabelError):
        Label("RR473124828GB", [])
