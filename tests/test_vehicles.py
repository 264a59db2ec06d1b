"""Make and model: one spelling for all, safe slugs, and data without contradictions."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import resources
from pathlib import Path
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

import carscraper
from carscraper.vehicles import Vehicle, canonical, make_slug, slug, split_make_model, split_title

DATA: dict[str, Any] = tomllib.loads(
    resources.files("carscraper.data").joinpath("vehicles.toml").read_text(encoding="utf-8")
)
MAKES: dict[str, dict[str, Any]] = DATA["makes"]
SPELLINGS = [
    (spelling, identifier)
    for identifier, make in MAKES.items()
    for spelling in (identifier, make["name"], make.get("display", make["name"]), *make.get("aliases", ()))
]
MODELS = [(make["name"], model) for make in MAKES.values() for model in make.get("models", ())]

any_text = st.text(st.characters(), max_size=80) | st.lists(
    st.sampled_from([*"abcÞðæö-./&'+ 0123", "VW ", "LAND ", "ROVER ", "RANGE ", "GOLF ", "🚗", "\x00", "\ud800", "\n"])
    | st.sampled_from([spelling for spelling, _ in SPELLINGS])
    | st.sampled_from([model for _, model in MODELS]),
    max_size=8,
).map("".join)


# --- slugs --------------------------------------------------------------------------------------------------


@given(any_text, st.integers(-5, 200))
@example("-" * 5_000, 60)
@example("a" * 59 + " b", 60)
@example("../../etc/passwd\r\nX-Forged: 1", 60)
@example("ﷺ" * 2_000, 60)
@example("\u0301\u0316" * 20_000, 60)
def test_a_slug_is_safe_whatever_the_text(text: str, max_length: int) -> None:
    result = slug(text, max_length)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", result)
    assert 1 <= len(result) <= min(max(max_length, 1), 60)
    assert slug(result, max_length) == result


SLUG = [
    ("Land Cruiser 150 GX", "land-cruiser-150-gx"),
    ("Þórður Æsir Öxl", "thordur-aesir-oxl"),
    ("ÞÆÐÖ", "thaedo"),
    ("Škoda Citroën Ægir-é", "skoda-citroen-aegir-e"),
    ("Ö".encode().decode(), "o"),
    ("O\u0308", "o"),
    ("cee'd", "ceed"),
    ("ID.4", "id-4"),
    ("../../etc", "etc"),
    ("a\nb\x00c", "a-b-c"),
    ("Лада 🚗", "unknown"),
    ("=1+1", "1-1"),
    ("", "unknown"),
    (None, "unknown"),
    ("x" * 5_000, "x" * 60),
]


def test_slug() -> None:
    for text, expected in SLUG:
        assert slug(text) == expected, (text, expected)


def test_every_spelling_of_a_make_has_one_slug() -> None:
    for spelling, identifier in SPELLINGS:
        assert (
            make_slug(spelling) == make_slug(spelling.upper()) == make_slug(f" {spelling.lower()}\xa0") == identifier
        ), (spelling, identifier)


@given(any_text)
def test_the_slug_of_the_canonical_make_is_the_makes_slug(text: str) -> None:
    make = canonical(text, None).make
    assert make_slug(make) == make_slug(text)


# --- the data -----------------------------------------------------------------------------------------------


def test_the_data_is_sound() -> None:
    assert len(MAKES) >= 60
    assert list(MAKES) == sorted(MAKES)
    for identifier, make in MAKES.items():
        assert slug(identifier) == identifier
        assert make["name"].isascii(), make
        assert set(make) <= {"name", "display", "aliases", "lines", "models"}, make
        models = make.get("models", [])
        assert len({slug(model.replace("+", "plus")).replace("-", "") for model in models}) == len(models), (
            f"{identifier}: a model twice"
        )
    assert len({word.upper() for word in DATA["trims"]}) == len(DATA["trims"])


def test_every_model_is_mended_from_capitals_and_final() -> None:
    for make, model in MODELS:
        assert canonical(make.upper(), model.upper()).model == model, (make, model)
        assert canonical(make, f"{make.upper()} {model.lower()} 2.0 GTX").model == f"{model} 2.0 GTX", (make, model)


def test_the_data_is_read_from_a_zipped_egg(tmp_path: Path) -> None:
    package = Path(carscraper.__file__ or "").parent
    egg = tmp_path / "project.egg"
    with zipfile.ZipFile(egg, "w") as archive:
        archive.writestr("carscraper/__init__.py", "")
        for name in ("parsing.py", "vehicles.py", "data/__init__.py", "data/vehicles.toml"):
            archive.write(package / name, f"carscraper/{name}")
    code = (
        f"import sys; sys.path.insert(0, {str(egg)!r}); from carscraper import vehicles as v; "
        "print(v.__file__, v.make_slug('VW'))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == [f"{egg}/carscraper/vehicles.py", "volkswagen"]


# --- the canonical form -------------------------------------------------------------------------------------


FROM_A_TITLE = [
    ("VW ID.5 GTX 220 KW", "Volkswagen", "ID.5 GTX 220 KW"),
    ("VOLKSWAGEN VW GOLF", "Volkswagen", "Golf"),
    ("TOYOTA LAND CRUISER 150 GX", "Toyota", "Land Cruiser 150 GX"),
    ("TOYOTA RAV 4 HYBRID", "Toyota", "RAV4 Hybrid"),
    ("LAND ROVER DEFENDER HSE", "Land Rover", "Defender HSE"),
    ("LAND ROVER RANGE ROVER SPORT HSE", "Land Rover", "Range Rover Sport HSE"),
    ("RANGE ROVER SPORT HSE", "Land Rover", "Range Rover Sport HSE"),
    ("RANGE ROVER", "Land Rover", "Range Rover"),
    ("ROVER 75", "Rover", "75"),
    ("ALFA ROMEO GIULIA VELOCE", "Alfa Romeo", "Giulia VELOCE"),
    ("ASTON MARTIN DBX", "Aston Martin", "DBX"),
    ("M.BENZ GLC 300 E", "Mercedes-Benz", "GLC 300 E"),
    ("MERCEDES BENZ EQA", "Mercedes-Benz", "EQA"),
    ("Mercedes-AMG GT 63", "Mercedes-Benz", "AMG GT 63"),
    ("AUDI E-TRON 55", "Audi", "e-tron 55"),
    ("HYUNDAI IONIQ 5", "Hyundai", "IONIQ 5"),
    ("TESLA MODEL 3 LONG RANGE", "Tesla", "Model 3 Long Range"),
    ("BMW X5 XDRIVE45E", "BMW", "X5 XDRIVE45E"),
    ("LYNK & CO 01", "Lynk & Co", "01"),
    ("MAZDA CX5", "Mazda", "CX-5"),
    ("KIA - Sportage", "Kia", "Sportage"),
    ("PEUGEOT 2008", "Peugeot", "2008"),
    ("TRABANT 601 S", "Trabant", "601 S"),
    ("XYZ 5", "XYZ", "5"),
    ("=TRABANT - 601", "Trabant", "601"),
    ("Toyota", "Toyota", None),
    ("", None, None),
    (None, None, None),
    ("-", None, None),
]


def test_from_a_title() -> None:
    for title, make, model in FROM_A_TITLE:
        vehicle = canonical(*split_title(title))
        assert (vehicle.make, vehicle.model) == (make, model), (title, make)
        assert vehicle.display_name == model, (title, make)


DISPLAY_MAKE = [
    ("SKODA", "Škoda"),
    ("Škoda", "Škoda"),
    ("kia", "KIA"),
    ("bmw", "BMW"),
    ("CITROEN", "Citroën"),
    ("Trabant", "Trabant"),
]


def test_display_make() -> None:
    for make, display in DISPLAY_MAKE:
        assert canonical(make, None).display_make == display, (make, display)


def test_an_unknown_make_is_kept() -> None:
    assert canonical(" Foo\xa0Bar ", "FOO BAR X\x00Y") == Vehicle("Foo Bar", "XY", "Foo Bar", "XY", known=False)


SPLIT_MAKE_MODEL = [
    ("TOYOTA", "TOYOTA YARIS", ("TOYOTA", "YARIS")),
    ("M.BENZ", "M.BENZ GLC", ("M.BENZ", "GLC")),
    ("VW", "VOLKSWAGEN GOLF", ("VW", "GOLF")),
    ("VW", "GOLF", ("VW", "GOLF")),
    ("LAND ROVER", "LAND ROVER RANGE ROVER SPORT", ("LAND ROVER", "RANGE ROVER SPORT")),
    ("FOO BAR", "FOO BAR BAZ", ("FOO BAR", "BAZ")),
    ("TOYOTA", "TOYOTA", ("TOYOTA", None)),
    ("TOYOTA", None, ("TOYOTA", None)),
    (None, "ALFA ROMEO GIULIA", ("ALFA ROMEO", "GIULIA")),
    (None, None, (None, None)),
]


def test_split_make_model() -> None:
    for make, text, expected in SPLIT_MAKE_MODEL:
        assert split_make_model(make, text) == expected, (make, text)


@given(any_text | st.none(), any_text | st.none())
def test_the_canonical_form_is_final_and_clean(make: str | None, model: str | None) -> None:
    vehicle = canonical(make, model)
    assert canonical(vehicle.make, vehicle.model) == vehicle
    assert canonical(vehicle.display_make, vehicle.display_name) == vehicle
    for part in (vehicle.make, vehicle.model, vehicle.display_make, vehicle.display_name):
        assert part is None or (part == " ".join(part.split()) and "\x00" not in part and part.encode())
        assert part is None or 0 < len(part) <= 200


@given(any_text)
def test_splitting_loses_no_word(title: str) -> None:
    make, model = split_title(title)
    assert make is not None or model is None
    joined = " ".join(filter(None, (make, model)))
    assert split_title(joined) == (make, model)
    if make and len(make) <= 60:
        assert split_make_model(make, joined)[0] == make


HOSTILE_LENGTH = ["x" * 100_000, "VW " * 50_000, "\u0301" * 100_000, "../" * 10_000]


def test_hostile_length() -> None:
    for text in HOSTILE_LENGTH:
        vehicle = canonical(text, text)
        assert len(vehicle.make or "") <= 60, text
        assert len(vehicle.model or "") <= 200, text
        assert len(" ".join(filter(None, split_title(text)))) <= 300, text
