"""Forms with files, read by the ``multipart`` library.

Werkzeug's own reader takes 50 ms for 256 tiles, in which nothing else of a batch can begin; the
library takes 5 (one core of a 2-core virtual machine).
"""

from typing import IO, Any

from flask import Request
from multipart import MultipartError, MultipartParser, ParserLimitReached
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge
from werkzeug.formparser import FormDataParser
from werkzeug.http import parse_options_header

FORM_BLOCK = 256 * 1024  # bytes read at a time
LARGEST_IN_MEMORY = 512 * 1024  # bytes of a file; larger ones, archives, go to the disk
LARGEST_FIELD = 64 * 1024  # bytes of a field that is no file


class Forms(FormDataParser):
    """Werkzeug's reader of forms, with another one for those with files."""

    def parse(
        self, stream: IO[bytes], mimetype: str, length: int | None, options: Any = None
    ) -> tuple[IO[bytes], MultiDict[str, str], MultiDict[str, FileStorage]]:
        """As Werkzeug has it: the stream behind the form, its fields and its files.

        Raises:
            RequestEntityTooLarge: more parts than Flask takes, or too large a field.
            BadRequest: it is damaged or cut off.
        """
        boundary = (options or {}).get("boundary")
        if mimetype != "multipart/form-data" or not boundary:
            return super().parse(stream, mimetype, length, options)
        fields: list[tuple[str, str]] = []
        files: list[tuple[str, FileStorage]] = []
        try:
            for part in MultipartParser(
                stream,
                boundary,
                buffer_size=FORM_BLOCK,
                part_limit=self.max_form_parts or 1000,
                spool_limit=LARGEST_IN_MEMORY,
                memory_limit=2**40,  # how large a request may be is Flask's to say
            ):
                filename = part.filename
                if filename is None and "filename*" in part.disposition:  # of older HTTP clients
                    filename = parse_options_header(part.disposition)[1].get("filename")
                if filename is not None:
                    file = FileStorage(part.file, filename, part.name, part.content_type)
                    files.append((part.name, file))
                elif part.size > LARGEST_FIELD:
                    raise RequestEntityTooLarge
                else:
                    fields.append((part.name, part.raw.decode(errors="replace")))
        except (MultipartError, RequestEntityTooLarge) as error:
            for _, file in files:
                file.close()
            if isinstance(error, ParserLimitReached | RequestEntityTooLarge):
                raise RequestEntityTooLarge from error
            raise BadRequest("The form is damaged or cut off. Send it again.") from error
        return stream, self.cls(fields), self.cls(files)


class FormRequest(Request):
    """Flask's request with such forms."""

    form_data_parser_class = Forms
