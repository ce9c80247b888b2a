"""Give a file that replaces another one its owner, group, mode, ACL and user attributes.

The new file never grants more than the old one did. If owner, group or ACL cannot be kept, the bits
that were meant for them are cleared. Nothing here raises. What could not be kept is returned, for a
warning.
"""

from __future__ import annotations

import contextlib
import os
import stat

#: Extended attributes that the new file takes over. Others belong to the old contents or the
#: system.
_ACL = "system.posix_acl_access"
_USER_ATTRIBUTES = "user."


def take_over(descriptor: int, target: str, before: os.stat_result) -> list[str]:
    """Give the new file what the old one has. Return phrases about what could not be kept."""
    lost = []
    mode = stat.S_IMODE(before.st_mode)
    has_group = _chown(descriptor, -1, before.st_gid)
    if not has_group:
        lost.append(f"its group, {_group(before.st_gid)}, could not be kept")
    if not _chown(descriptor, before.st_uid, -1):
        lost.append(
            f"its owner, {_user(before.st_uid)}, could not be kept: it now belongs to {_user(os.geteuid())}"
        )
        mode &= ~stat.S_ISUID
    acl = _read_acl(target)
    if not has_group or acl is not None:  # with an ACL, the group's bits are its mask
        mode = _without_group(mode)
    try:
        _drop_acl(descriptor)
        os.fchmod(descriptor, mode)
    except OSError as error:
        lost.append(f"its mode, {mode:o}, could not be kept ({error.strerror})")
    if not _copy_attributes(descriptor, target, acl if has_group else None) or (acl and not has_group):
        lost.append("its access control list or attributes could not be kept")
    if before.st_nlink > 1:
        lost.append("its other names (hard links) keep the old contents")
    return lost


def _without_group(mode: int) -> int:
    """Return a mode that grants the group no more than all others."""
    for_all = mode & stat.S_IRWXO
    return mode & ~(stat.S_ISGID | stat.S_IRWXG) | (mode & for_all << 3)


def _chown(descriptor: int, user: int, group: int) -> bool:
    """Change user or group of a file (-1: neither); return whether it has them now."""
    now = os.fstat(descriptor)
    if user in (-1, now.st_uid) and group in (-1, now.st_gid):
        return True
    try:
        os.fchown(descriptor, user, group)
    except OSError:  # only root may change the user; others may choose among their own groups
        return False
    return True


def _read_acl(target: str) -> bytes | None:
    try:
        return os.getxattr(target, _ACL)
    except (AttributeError, OSError):  # this system, file system or file has none
        return None


def _drop_acl(descriptor: int) -> None:
    """Remove the ACL that the folder gave a new file."""
    with contextlib.suppress(AttributeError, OSError):
        os.removexattr(descriptor, _ACL)


def _copy_attributes(descriptor: int, target: str, acl: bytes | None) -> bool:
    """Copy user attributes from `target`, and set the ACL; return whether all of it worked."""
    try:
        names = [name for name in os.listxattr(target) if name.startswith(_USER_ATTRIBUTES)]
    except (AttributeError, OSError):
        names = []
    try:
        for name in names:
            os.setxattr(descriptor, name, os.getxattr(target, name))
        if acl is not None:
            os.setxattr(descriptor, _ACL, acl)
    except OSError:
        return False
    return True


def _user(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"uid {number}"


def _group(number: int) -> str:
    import grp

    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return f"gid {number}"
