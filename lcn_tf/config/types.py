"""Numbers that a config may hold."""

import typing

import pydantic

Share = typing.Annotated[float, pydantic.Field(ge=0, le=1)]
Positive = typing.Annotated[int, pydantic.Field(ge=1)]
Count = typing.Annotated[int, pydantic.Field(ge=0)]
Rate = typing.Annotated[float, pydantic.Field(gt=0)]
