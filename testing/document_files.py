"""Documents in every format that is read, written from their paragraphs; and such files, broken."""

from __future__ import annotations

import html
import io
import json
import random
import zipfile
from collections.abc import Callable, Mapping, Sequence

import pypdfium2
from fpdf import FPDF

_WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_RELATIONSHIPS = "http://schemas.openxmlformats.org/package/2006/relationships"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"

#: A cue: first second, last second, text.
Cue = tuple[float, float, str]


def srt(cues: Sequence[Cue]) -> bytes:
    blocks = [
        f"{number}\n{_clock(first, ',')} --> {_clock(last, ',')}\n{text}"
        for number, (first, last, text) in enumerate(cues, 1)
    ]
    return ("\n\n".join(blocks) + "\n").encode()


def vtt(cues: Sequence[Cue]) -> bytes:
    blocks = [
        f"{_clock(first, '.')} --> {_clock(last, '.')} align:start\n<v Ann>{html.escape(text, quote=False)}</v>"
        for first, last, text in cues
    ]
    return ("WEBVTT\n\nNOTE made by a test\n\n" + "\n\n".join(blocks) + "\n").encode()


def whisper(cues: Sequence[Cue]) -> bytes:
    segments = [{"id": n, "start": cue[0], "end": cue[1], "text": f" {cue[2]}"} for n, cue in enumerate(cues)]
    return json.dumps({"text": "".join(item["text"] for item in segments), "segments": segments}).encode()


def markdown(paragraphs: Sequence[str]) -> bytes:
    return ("# " + "\n\n".join(paragraphs) + "\n").encode()


def webpage(paragraphs: Sequence[str]) -> bytes:
    body = "\n".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in paragraphs)
    menu = "".join(f'<li><a href="/{name}">{name}</a></li>' for name in ("Home", "News", "About"))
    page = f"<!doctype html><html><head><meta charset=utf-8><title>A title</title></head><body><ul>{menu}</ul>"
    return f"{page}<nav>Menu</nav><main>{body}</main><footer>Imprint</footer></body></html>".encode()


def docx(paragraphs: Sequence[str]) -> bytes:
    body = "".join(
        f'<w:p><w:pPr><w:tabs><w:tab w:val="left"/></w:tabs></w:pPr><w:r><w:t xml:space="preserve">{_xml(item)}</w:t>'
        "</w:r></w:p>"
        for item in paragraphs
    )
    parts = {
        "[Content_Types].xml": "<Types/>",
        "_rels/.rels": f'<Relationships xmlns="{_RELATIONSHIPS}"><Relationship Id="a" Type="{_OFFICE}" '
        'Target="word/document.xml"/></Relationships>',
        "word/document.xml": f'<w:document xmlns:w="{_WORD}"><w:body>{body}</w:body></w:document>',
    }
    return zipped(parts)


def epub(paragraphs: Sequence[str], chapters: int = 2) -> bytes:
    """A book whose paragraphs are spread over chapters."""
    size = -(-len(paragraphs) // chapters)
    parts = [paragraphs[start : start + size] for start in range(0, len(paragraphs), size)]
    items = "".join(
        f'<item id="c{n}" href="chapter%20{n}.xhtml" media-type="application/xhtml+xml"/>' for n in range(len(parts))
    )
    spine = "".join(f'<itemref idref="c{n}"/>' for n in range(len(parts)))
    files = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": '<container><rootfiles><rootfile full-path="O/book.opf"/></rootfiles></container>',
        "O/book.opf": f"<package><manifest>{items}</manifest><spine>{spine}</spine></package>",
    }
    for number, part in enumerate(parts):
        body = "".join(f"<p>{_xml(item)}</p>" for item in part)
        files[f"O/chapter {number}.xhtml"] = (
            f'<?xml version="1.0" encoding="utf-8"?><html><head><title/></head><body>{body}</body></html>'
        )
    return zipped(files)


def pdf(
    paragraphs: Sequence[str],
    *,
    columns: int = 1,
    head: str | None = None,
    password: str | None = None,
    turn: int = 0,
) -> bytes:
    """A PDF in Times, whose paragraphs (Latin-1) have a gap between; with a running head and page numbers if asked.
    ``turn``: degrees by which all text is turned against the clock, around the middle of the page."""

    class Printed(FPDF):
        def header(self) -> None:
            if head is not None:
                self.set_font("Times", size=9)
                self.cell(0, 8, head, align="C")
                self.ln(14)

        def footer(self) -> None:
            if head is not None:
                self.set_y(-15)
                self.cell(0, 8, f"Page {self.page_no()}", align="C")

    file = Printed()
    if password is not None:
        file.set_encryption("owner", password)
    file.set_font("Times", size=11)
    file.add_page()
    file.set_font("Times", size=11)
    if columns == 1:
        for paragraph in paragraphs:
            with file.rotation(turn, file.w / 2, file.h / 2):
                file.multi_cell(0, 5, paragraph, new_x="LMARGIN", new_y="NEXT")
            file.ln(4)
    else:
        with file.text_columns(ncols=columns, gutter=8, text_align="J") as place:
            for paragraph in paragraphs:
                with place.paragraph(bottom_margin=4) as part:
                    part.write(paragraph)
    return bytes(file.output())


def scan() -> bytes:
    """A PDF with a drawing and no text."""
    file = FPDF()
    file.add_page()
    file.rect(20, 20, 60, 60)
    return bytes(file.output())


def joined_pdfs(*files: bytes) -> bytes:
    """A PDF with the pages of several."""
    whole = pypdfium2.PdfDocument.new()
    for data in files:
        whole.import_pages(pypdfium2.PdfDocument(data))
    target = io.BytesIO()
    whole.save(target)
    return target.getvalue()


def scanned(data: bytes, dots_an_inch: int = 150, stamp: str | None = None) -> bytes:
    """A PDF with pictures of the pages of another, and without text, or with a stamp."""
    file = FPDF(unit="pt", format="A4")
    source = pypdfium2.PdfDocument(data)
    for page in source:
        picture = io.BytesIO()
        drawn = page.render(scale=dots_an_inch / 72)  # pyright: ignore[reportArgumentType]
        drawn.to_pil().convert("L").save(picture, "PNG")
        file.add_page()
        file.image(picture, 0, 0, file.w, file.h)
        if stamp is not None:
            file.set_font("Helvetica", size=9)
            file.text(300, 600, stamp)
    source.close()
    return bytes(file.output())


def pdf_of_objects(*objects: bytes) -> bytes:
    """A PDF with these objects, numbered from 1; the first is the catalogue."""
    content, places = b"%PDF-1.4\n", []
    for number, item in enumerate(objects, 1):
        places.append(len(content))
        content += b"%d 0 obj\n%s\nendobj\n" % (number, item)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size = len(objects) + 1
    end = b"trailer\n<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (size, len(content))
    return content + b"xref\n0 %d\n0000000000 65535 f \n%s%s" % (size, table, end)


def zipped(files: Mapping[str, str | bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return target.getvalue()


def mutant(data: bytes, seed: int) -> bytes:
    """The bytes, cut, changed, doubled in part, or with a hole."""
    draw = random.Random(seed)
    changed, place = bytearray(data), draw.randrange(len(data))
    how = draw.randrange(4)
    if how == 0:
        del changed[place:]
    elif how == 1:
        for _ in range(draw.choice((1, 3, 30))):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
    elif how == 2:
        start = draw.randrange(len(data))
        changed[place:place] = data[start : start + draw.randrange(1, 60)] * draw.choice((1, 50))
    else:
        del changed[place : place + draw.randrange(1, 50)]
    return bytes(changed)


#: Writers of formats that have paragraphs, and of those that have cues, by the ending of their files.
WITH_PARAGRAPHS: dict[str, Callable[[Sequence[str]], bytes]] = {
    ".md": markdown,
    ".html": webpage,
    ".docx": docx,
    ".epub": epub,
    ".pdf": pdf,
}
WITH_CUES: dict[str, Callable[[Sequence[Cue]], bytes]] = {".srt": srt, ".vtt": vtt, ".json": whisper}


def _clock(seconds: float, point: str) -> str:
    whole = round(seconds * 1000)
    return f"{whole // 3_600_000:02}:{whole // 60_000 % 60:02}:{whole // 1000 % 60:02}{point}{whole % 1000:03}"


def _xml(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
