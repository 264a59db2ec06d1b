"""Pages without what is of persons: mail addresses, phone numbers, identity numbers, plates."""

from __future__ import annotations

import re

_GAP = r"(?:[ \u00a0.\u2010-\u2015-]|&nbsp;|&#\d{1,5};|%20)?"
_MAIL = re.compile(
    r"[\w.+-]+(?:@|\s?[(\[](?:at|hja|hjá)[)\]]\s?|&#0*64;|&#x40;|&commat;|%40|\\u0040)[\w-]+(?:\.[\w-]+)+"
    r"|(?<=data-cfemail=[\"'])[0-9a-f]+"
    r"|(?<=email-protection#)[0-9a-f]+",
    re.IGNORECASE,
)
_NUMBERS = re.compile(
    # a kennitala · a number with its country · one after its label · seven digits in two groups · seven alone, unless
    # they are an id in an address
    rf"(?<!\d)[0-7]\d[01]\d\d\d-?\d{{4}}(?!\d)"
    rf"|(?:\+|\b00|%2B|\((?=\+?354))\+?\d{{2,3}}\)?(?:{_GAP}\d){{6,10}}(?!\d)"
    rf"|\b(?:tel|phone|mobile|gsm|s[íi]m[ai]\w*|fax|s\.|callto|sms)(?:[\s:=\"'/]|&quot;|%3A){{1,4}}\+?\d(?:{_GAP}\d){{5,11}}"
    rf"|(?<![\d.,/=&_-])[4-9]\d\d(?:[ \u00a0.\u2010-\u2015-]|&nbsp;|&#\d{{1,5}};)\d{{4}}(?![\d])"
    rf"|(?<![\w.,/=&_-])[4-9]\d{{6}}(?![\w.]\d)(?!\d)",
    re.IGNORECASE,
)
_LETTER = "A-ZÁÐÉÍÓÚÝÞÆÖ"
# Before seven digits that are a number of a script, or a price.
_PRICE = re.compile(r"\":\s?$|(?:price|ver[dð]|amount|km|akstur|id)\W{1,4}$", re.IGNORECASE)
_ITSELF = rf"[{_LETTER}]{{2}}({_GAP})([{_LETTER}\d])\d{{2}}(?!\w)"
_PLATE = re.compile(rf"(?<![\w#])(){_ITSELF}")
# After its label in small letters, too.
_LABELLED = re.compile(rf"((?:númer|astnr)\.?(?:<[^>]{{0,40}}>|[\s:=\"']){{1,9}}){_ITSELF}", re.IGNORECASE)


def mask(text: str) -> str:
    """Return *text* without mail addresses, phone numbers, identity numbers and plates; its form stays.

    A model that looks like a plate is masked as well: what is sent to strangers rather lacks a model.

    >>> mask("a.b@x.is, s. 555 1234, +354 555-1234, AB 123, ABC12, 010190-2939, kr. 2.990.000, cid=296487&p=5777561")
    'post@example.is, s. 000 0000, +000 000-0000, XX 000, XXX00, 000000-0000, kr. 2.990.000, cid=296487&p=5777561'
    >>> mask('<a href="tel:5551234">x</a> {"phone":"555-1234"} <b>Nýskráning</b> 9/2020 104.709 km.')
    '<a href="tel:0000000">x</a> {"phone":"000-0000"} <b>Nýskráning</b> 9/2020 104.709 km.'
    >>> mask('{"price":7590000,"price":"7590000","phone":5551234} <i data-price="7590000" content="5551234">')
    '{"price":7590000,"price":"7590000","phone":0000000} <i data-price="7590000" content="0000000">'
    >>> mask("Fastanúmer: <b>ab 123</b>, (354) 555 1234, (12.990.000 kr.), KIA EV6, GLC 300, 7.590.000 2019")
    'Fastanúmer: <b>XX 000</b>, (000) 000 0000, (12.990.000 kr.), KIA EV6, GLC 300, 7.590.000 2019'
    """
    text = _MAIL.sub("post@example.is", text)
    text = _NUMBERS.sub(_masked_number, text)
    for pattern in (_LABELLED, _PLATE):
        text = pattern.sub(_masked_plate, text)
    return text


def _masked_number(match: re.Match[str]) -> str:
    before = match.string[max(0, match.start() - 20) : match.start()]
    return match[0] if match[0].isdigit() and _PRICE.search(before) else re.sub(r"\d", "0", match[0])


def _masked_plate(match: re.Match[str]) -> str:
    return f"{match[1]}XX{match[2]}{'0' if match[3].isdigit() else 'X'}00"
