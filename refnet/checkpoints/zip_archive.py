"""The members of a zip archive, for formats that are one: PyTorch's and NumPy's."""

import io
import zipfile
import zlib

from refnet.checkpoints.allowance import Allowance
from refnet.errors import CheckpointError

_TROUBLES = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    EOFError,
    IndexError,
    KeyError,
    NotImplementedError,  # a compression or version that zipfile does not know
    OSError,
    OverflowError,
    RuntimeError,  # an encrypted member
    ValueError,
)
_MEMBERS_AT_MOST = 100_000


class Archive:
    """A zip archive held in memory. Each name occurs once; sizes are checked before inflating."""

    def __init__(self, data: bytes, allowance: Allowance) -> None:
        """Raises CheckpointError where the archive's directory is missing, cut off or ambiguous."""
        self._allowance = allowance
        if data.count(b"PK\x01\x02") > _MEMBERS_AT_MOST:  # before an object is made for each
            raise CheckpointError(f"its zip archive has more than {_MEMBERS_AT_MOST:,} members")
        try:
            self._file = zipfile.ZipFile(io.BytesIO(data))
            self._members = {member.filename: member for member in self._file.infolist()}
        except _TROUBLES as error:
            raise CheckpointError(
                f"its zip archive is cut off or damaged ({error}). Copy or download it again."
            ) from error
        if len(self._members) != len(self._file.infolist()):
            raise CheckpointError(
                "its zip archive holds two members of one name; which one is meant?"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The members' names, in the archive's order."""
        return tuple(self._members)

    def read(self, name: str, *, inflate: bool = False) -> bytes:
        """The bytes of one member. Compressed members are refused unless `inflate`."""
        member = self._members.get(name)
        if member is None:
            raise CheckpointError(f"its zip archive has no member {name!r}. The file is damaged.")
        if inflate and member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise CheckpointError(f"member {name!r} is compressed in a way that NumPy never uses")
        if not inflate and member.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(
                f"member {name!r} is compressed, which PyTorch never does. Unpack the archive and "
                f"pack it again without compression (zip -0)."
            )
        self._allowance.spend(member.file_size, f"member {name!r}")
        try:
            with self._file.open(member) as stream:
                content = stream.read(member.file_size)  # a bound: the stream may inflate to more
        except _TROUBLES as error:
            raise CheckpointError(
                f"member {name!r} of its zip archive is cut off or damaged ({error}), or was written "
                f"without checksums. Copy or download the file again."
            ) from error
        if len(content) != member.file_size:
            raise CheckpointError(f"member {name!r} of its zip archive is cut off")
        return content
