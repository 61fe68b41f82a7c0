"""Addresses: taken apart, shown without secrets, filed by what names the file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbatch.errors import DataError, MachineError, RecipeError, without_credentials
from bigbatch.files.kinds import is_data
from bigbatch.recipe.load import dump_recipe, load_recipe
from bigbatch.remote.addresses import address_of, file_name, is_address, quoted, shown, unsigned

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("text", "expected"),
    {
        "https://me:pw@host:8443/a/b.csv?sig=1#part": "https://host:8443/a/b.csv",
        "https://host/a.csv": "https://host/a.csv",
        "https://host?query": "https://host",
        "s3://key:secret@bucket/a.csv": "s3://bucket/a.csv",
        "a@b?c.csv": "a@b?c.csv",
        "folder/a.csv": "folder/a.csv",
        "C:\\data\\a.csv": "C:\\data\\a.csv",
    }.items(),
)
def test_what_is_shown(text, expected):
    assert shown(text) == expected and shown(expected) == expected


@given(
    user=st.from_regex(r"[a-z]{1,5}:[A-Za-z0-9%._~-]{8,20}", fullmatch=True),
    names=st.lists(
        st.sampled_from(["X-Amz-Signature", "sig", "token", "Signature", "X-Goog-Credential", "api_key"])
    ),
    path=st.from_regex(r"[a-z0-9/._-]{1,20}x", fullmatch=True),
)
def test_no_part_that_lets_somebody_in_is_shown_filed_or_told(user, names, path):
    query = "&".join(["id=3", *(f"{name}={SECRET}" for name in names)])
    text = f"https://{user}@host/{path}?{query}"
    for found in (
        shown(text),
        unsigned(text),
        without_credentials(f"of '{text}' came nothing"),
        address_of(text).shown,
    ):
        assert SECRET not in found and user not in found
    assert unsigned(text).endswith("?id=3")
    assert (
        address_of(text).key
        == address_of(f"https://host/{path}?id=3").key
        != address_of(f"https://host/{path}").key
    )


@given(path=st.text(max_size=60))
def test_names_of_files_are_plain(path):
    name = file_name(path)
    assert (
        re.fullmatch(r"[A-Za-z0-9._-]{1,100}", name) and not name.startswith(".") and Path(name).name == name
    )


def test_letters_outside_of_ascii_are_encoded_once():
    assert quoted("https://host/ä b%20c?x=1") == "https://host/%C3%A4%20b%20c?x=1"
    assert address_of("https://host/%C3%A4.csv").name == "_.csv"


def test_a_recipe_says_what_is_wrong_with_an_address_and_keeps_no_secret():
    with pytest.raises(RecipeError, match="data.train: ftp:// is not read"):
        load_recipe({"data": {"train": "ftp://host/a.csv"}})
    recipe = load_recipe(
        {
            "data": {
                "train": f"https://u:{SECRET}@host/a.csv?sig={SECRET}",
                "validation": {"x": f"s3://b/{SECRET}?k"},
            }
        }
    )
    written = dump_recipe(recipe)
    assert "https://host/a.csv\n" in written and f"s3://b/{SECRET}\n" in written and "sig" not in written
    assert recipe.data.train[0].path.endswith(f"?sig={SECRET}"), "whoever fetches it needs it"


def test_what_is_no_address_and_what_holds_rows():
    assert not any(map(is_address, ("a.csv", "C:/a.csv", "folder://", 3, None, "://a"))) or is_address(
        "folder://"
    )
    names = {
        "a.csv": True,
        "a.CSV.gz": True,
        "a.parquet": True,
        "a.md": False,
        "a.py": False,
        "a.csv.zip": False,
    }
    assert {name: is_data(name) for name in names} == names


def test_errors_are_those_of_data_and_machine():
    assert (DataError.exit_code, MachineError.exit_code) == (2, 6)
