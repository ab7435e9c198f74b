"""The codec against the golden bytes and against PROTOCOL.md, both ways; and what it does with bytes that are no message."""
import os
import pathlib
import random
import re

import msgpack
import pytest

from gpuq import wire

SOURCE = pathlib.Path(os.environ["GPUQ_SOURCE_DIR"])
GOLDEN = sorted((SOURCE / "tests/unit/golden/v1").glob("*.hex"))
OURS = [path for path in GOLDEN if path.stem in wire.STRUCTS]
REQUEST, TRACE = 0x0102030405060708, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def known_part(raw, made):
    """What is left of a raw body when fields that this client does not know yet are taken out."""
    def of_type(value, kind):
        inner = kind.strip("[]{}")
        if inner not in wire.STRUCTS or value is None:
            return value
        return [known_part(one, wire.STRUCTS[inner]) for one in value] if kind.startswith("[") else known_part(value, wire.STRUCTS[inner])
    if made.array:
        return [of_type(value, field.type) for value, field in zip(raw, made.fields)]
    return {field.name: of_type(raw[field.name], field.type) for field in made.fields if field.name in raw}


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_the_golden_bytes_are_read_and_written(path):
    frame = bytes.fromhex(path.read_text())
    unpacker = msgpack.Unpacker(raw=False, strict_map_key=False)
    unpacker.feed(frame)
    made = wire.STRUCTS[path.stem]
    if path.stem.endswith("Body"):
        assert wire.encode_body(path.stem, wire.decode_body(path.stem, frame)) == wire.pack(known_part(unpacker.unpack(), made))
        return
    message = wire.decode(frame)
    assert (message.name, message.request) == (path.stem, REQUEST)
    assert all(message.fields[field.name] != field.default for field in made.fields), "a sample has no field at its default"
    expected = wire.header(made.number, REQUEST, TRACE) + wire.pack(known_part((unpacker.unpack(), unpacker.unpack())[1], made))
    assert wire.encode(message.name, message.fields, REQUEST, TRACE) == expected


def test_every_message_of_the_clients_half_is_covered():
    assert len(OURS) >= 49
    names = {path.stem for path in OURS}
    for name, made in wire.STRUCTS.items():
        assert made.number is None or name in names, f"{name} has no golden bytes"


def page_tables():
    """name: (form, [(field, type, default)]) of each section of PROTOCOL.md that has a table."""
    text = (SOURCE / "common/wire/PROTOCOL.md").read_text()
    for found in re.finditer(r"^### (.+?)\n\n(.*?)(?=^## |^### |\Z)", text, re.S | re.M):
        form = re.search(r"\*\((array|map)\)\*", found.group(2))
        if form:
            rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in found.group(2).splitlines() if re.match(r"\| *(\d+|`)", line)]
            rows = [row[1:] if form.group(1) == "array" else row for row in rows]
            yield found.group(1).split()[-1], form.group(1), [(row[0].strip("`"), row[1], row[2]) for row in rows]


def as_schema(kind):
    kind = kind.replace("list of 3 lists of 10 u64", "[[u64]]").replace("bin 16", "bin16").replace("bin 32", "bin32")
    kind = re.sub(r"list of (.+)", r"[\1]", kind)
    return re.sub(r"map str → (.+)", r"{\1}", kind)


def test_the_schema_is_what_the_protocol_page_says():
    page = {name: (form, rows) for name, form, rows in page_tables()}
    for name, made in wire.STRUCTS.items():
        form, rows = page[name]
        assert made.array == (form == "array"), name
        assert len(rows) >= len(made.fields), f"{name}: a field that the page does not know"
        for field, (page_name, kind, default) in zip(made.fields, rows):
            assert (field.name, field.type.lstrip("?")) == (page_name, as_schema(kind)), name
            assert field.type.startswith("?") == (default == "unchanged"), f"{name}.{page_name}"
            if default and default != "unchanged":
                assert field.default == wire._literal(default), f"{name}.{page_name}"


def test_unknown_fields_are_stepped_over_and_missing_ones_are_defaults():
    assert wire.decode(wire.header(6, 3) + wire.pack({"term": 7, "from a later version": [1, 2]})).fields == {"sent_us": 0, "term": 7}
    item = wire.STRUCTS["SubmittedItem"].read([bytes(range(16)), True, False, "", "", "", 1, "later", 1])
    assert item["ok"] and item["code"] == ""
    assert wire.STRUCTS["SubmitItem"].read([])["priority"] == 5 and wire.STRUCTS["SubmitItem"].read([None] * 7)["watch"] is True


def test_packed_items_are_the_message_that_encode_makes():
    for count in (1, 15, 16, 256):
        items = [{"id": bytes([count % 256] * 16), "digest": bytes([7] * 16), "kind": "echo", "payload_bytes": n} for n in range(count)]
        packed = [wire.pack(wire.STRUCTS["SubmitItem"].write(item)) for item in items]
        assert wire.pack_items("Submit", 9, packed) == wire.encode("Submit", {"items": items}, 9)


@pytest.mark.parametrize("frame", [b"", b"\xc1", b"\x94\x01\x01\x08", b"\x94\x01\x01\x08\x07\x80\x00", b"\x80\x80", b"\x94\x01\x01\x08\x07\x90",
                                   wire.header(8, 1) + wire.pack({"code": 7}), wire.header(14, 1) + wire.pack([[[b"short"]]]),
                                   wire.header(8, 1) + b"\xdd\xff\xff\xff\xff", wire.header(8, 1) + b"\x91" * 5000, wire.header(65000, 1) + b"\x80",
                                   wire.header(6, 1) + wire.pack({"term": -1}), b"\x94\x01\x01\xa1x\x07\x80", bytes(5 << 20)],
                         ids=lambda frame: frame[:12].hex())
def test_what_is_no_message_is_an_error_and_nothing_worse(frame):
    with pytest.raises(wire.WireError):
        wire.decode(frame)


def test_damaged_golden_bytes_are_read_or_refused_but_never_crash():
    chance = random.Random(20)
    for path in OURS:
        good = bytes.fromhex(path.read_text())
        for _ in range(200):
            bad = bytearray(good)
            for _ in range(chance.randrange(1, 4)):
                bad[chance.randrange(len(bad))] = chance.randrange(256)
            frame = bytes(bad[:chance.randrange(1, len(bad) + 1)])
            try:
                wire.decode_body(path.stem, frame) if path.stem.endswith("Body") else wire.decode(frame)
            except wire.WireError:
                pass


def test_a_message_for_later_readers_only_says_so():
    with pytest.raises(wire.WireError) as error:
        wire.decode(wire.pack([2, 2, 6, 1]) + b"\x80")
    assert error.value.code == "PROTOCOL"


def test_payloads_must_add_up():
    items = [{"payload_bytes": 2}, {"payload_bytes": 3}]
    assert wire.split_payloads(items, b"abcde") == [b"ab", b"cde"]
    for body in (b"abcd", b"abcdef"):
        with pytest.raises(wire.WireError):
            wire.split_payloads(items, body)
