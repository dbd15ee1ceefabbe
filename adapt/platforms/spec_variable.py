"""A whole job spec, in base64, as a variable of a process."""

from adapt.errors import JobError

SPEC_VARIABLE = "SEGADAPT_SPEC_BASE64"

VARIABLE_BYTES = 131_072
"""Linux's limit for one variable of a process, its name, `=` and its end included."""

LONGEST_SPEC = VARIABLE_BYTES - len(f"{SPEC_VARIABLE}=\0")

SHORTER_SPEC = "name one with the stores alone and short classes"
"""The fix for `--spec`, of which a command uses the stores and the classes."""


def spec_variable(key: str, spec: str, fix: str, longest: int = LONGEST_SPEC) -> dict[str, str]:
    """The variable by its name. Raises `JobError` where the spec has more than `longest`
    characters; `key` is how the user gave it."""
    if len(spec) > longest:
        raise JobError(
            f"{key}: expected at most {longest} characters in base64, got {len(spec)}", fix
        )
    return {SPEC_VARIABLE: spec}
