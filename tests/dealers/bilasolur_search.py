"""The search forms of the simulated bilasolur.is: what they look like, and what has to come along in a POST."""

from __future__ import annotations

import html
from collections.abc import Iterable

from tests.dealers import cars as invented

PREFIX = "ctl00$contentSearchEngine$ctl00$"
ADVANCED = "ctl00$contentSearchEngine$searchCars$"
GENERATOR = "CA0B0334"
SELECTS = {
    "search_vf": ("Verð frá", range(500_000, 10_500_000, 500_000)),
    "search_vt": ("Verð til", range(500_000, 10_500_000, 500_000)),
    "search_arf": ("Árgerð frá", range(2026, 1989, -1)),
    "search_art": ("Árgerð til", range(2026, 1989, -1)),
    "search_ef": ("Ekinn frá", range(10_000, 210_000, 10_000)),
    "search_et": ("Ekinn til", range(10_000, 210_000, 10_000)),
}
"""The selects besides the make. They have to come along in a POST; the search does not filter by them."""
HIDDEN = ("src_f1_hidden", "src_g1_hidden")
FORM_FIELDS = {"__EVENTTARGET", "__EVENTARGUMENT", *(PREFIX + f for f in ("search_f1", *SELECTS, *HIDDEN))}
"""What has to come along in a POST besides the two checked by value and the button."""
ADVANCED_TEXTS = ("search_cid",)
ADVANCED_SELECTS: dict[str, tuple[str, Iterable[object]]] = {
    "search_g1": ("Gerð", ()),
    "search_btshid": ("Bílasala", invented.DEALERS),
    "search_modage": ("Breytt innan", (1, 7, 30, 60, 90, 120)),
    "search_vf": ("Verð frá (þús.)", range(500, 10_500, 500)),
    "search_vt": ("Verð til (þús.)", range(500, 10_500, 500)),
    "search_arf": ("Árgerð frá", range(2026, 1989, -1)),
    "search_art": ("Árgerð til", range(2026, 1989, -1)),
    "search_ef": ("Ekinn frá (þús.)", range(10, 210, 10)),
    "search_et": ("Ekinn til (þús.)", range(10, 210, 10)),
}
"""The selects of the advanced form besides the make."""
ADVANCED_BOXES = {
    "search_off": "Flott verð",
    "search_p": "Á staðnum",
    "search_fe": "Rafmagn",
    "search_fh": "Hybrid",
    "search_fph": "Plug-in hybrid",
    "search_ft_0": "Bensín",
    "search_ft_1": "Dísel",
    "search_drv_1": "Framhjóladrif",
    "search_drv_2": "Afturhjóladrif",
    "search_drv_4": "Fjórhjóladrif",
    "search_xma": "Beinskipting",
    "search_xmm": "Sjálfskipting",
}
"""Its checkboxes. The search filters by make, number, dealer and time of change; the others may come along."""
ADVANCED_FIELDS = {
    "__EVENTTARGET",
    "__EVENTARGUMENT",
    *(ADVANCED + name for name in ("search_f1", *ADVANCED_TEXTS, *ADVANCED_SELECTS)),
}


def home_form(viewstate: str) -> str:
    """The search at home: by make only."""
    fields = "".join(_select(PREFIX + name, label, values) for name, (label, values) in SELECTS.items())
    fields += "".join(f'<input type="hidden" name="{PREFIX}{name}" value="" />\n' for name in HIDDEN)
    return _form("./", PREFIX, fields, viewstate)


def advanced_form(viewstate: str) -> str:
    """The advanced search."""
    fields = "".join(f'<input type="text" name="{ADVANCED}{name}" value="" />\n' for name in ADVANCED_TEXTS)
    fields += "".join(_select(ADVANCED + name, label, values) for name, (label, values) in ADVANCED_SELECTS.items())
    fields += "".join(
        f'<label><input type="checkbox" name="{ADVANCED}{name}" />{label}</label>\n'
        for name, label in ADVANCED_BOXES.items()
    )
    return _form("./SearchCars.aspx", ADVANCED, fields, viewstate)


def _form(action: str, prefix: str, fields: str, viewstate: str) -> str:
    """A form with what every page of WebForms has, the makes and the button."""
    makes = "".join(
        f'<option value="{number}">{html.escape(make)}</option>' for make, (number, _) in invented.MAKES.items()
    )
    return f"""<form method="post" action="{action}" id="aspnetForm">
<div class="aspNetHidden">
<input type="hidden" name="__EVENTTARGET" id="__EVENTTARGET" value="" />
<input type="hidden" name="__EVENTARGUMENT" id="__EVENTARGUMENT" value="" />
<input type="hidden" name="__VIEWSTATE" id="__VIEWSTATE" value="{viewstate}" />
<input type="hidden" name="__VIEWSTATEGENERATOR" id="__VIEWSTATEGENERATOR" value="{GENERATOR}" />
</div>
<select name="{prefix}search_f1">
<option selected="selected" value="-1">Allir framleiðendur</option>{makes}</select>
{fields}<input type="submit" name="{prefix}btnSearch" value="Leita" class="btn-search" />
</form>"""


def _select(name: str, label: str, values: Iterable[object]) -> str:
    """A select that stands at "any"."""
    options = "".join(f'<option value="{value}">{value}</option>' for value in values)
    return f'<select name="{name}"><option selected="selected" value="-1">{label}</option>{options}</select>\n'
