"""Types that reports and answers share: numbers with their range, names and texts with their form.

To Python they are plain numbers and texts; pydantic checks them, and writes them into JSON Schemas.
"""

from typing import Annotated

from pydantic import Field, Strict

from handlers.contract.names import MODEL_NAME, VERSION

LARGEST_NUMBER = 2**53  # what JSON keeps exactly

Share = Annotated[float, Strict(), Field(ge=0, le=1)]
Number = Annotated[float, Strict(), Field(ge=0, le=LARGEST_NUMBER)]
Count = Annotated[int, Strict(), Field(ge=0, le=LARGEST_NUMBER)]
# [0-9], as \d means more digits to JSON Schema and pydantic than to our own re.ASCII
ModelName = Annotated[str, Field(pattern=f"^{MODEL_NAME.pattern}$")]
Version = Annotated[str, Field(pattern=f"^{VERSION.pattern}$".replace(r"\d", "[0-9]"))]
