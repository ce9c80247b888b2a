"""The map functions, for both programs: the amount of each region."""

#: Size of a record of binary files: a region, padded, and an amount of 8 bytes.
RECORD_BYTES = 32


def amount_of_dict(place, row):
    yield row["region"], int(row["amount"])


def amount_of_tuple(place, row):
    if row[0] != "number":
        yield row[1], int(row[2])


def amount_of_bytes(place, record):
    yield record[:24], int.from_bytes(record[24:], "little")


def amount_of_table(place, table):
    sums = table.group_by("region").aggregate([("amount", "sum")])
    yield from zip(sums["region"].to_pylist(), sums["amount_sum"].to_pylist(), strict=True)
