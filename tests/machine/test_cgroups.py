"""The limits of control groups, read from machines that are made of files."""

import pytest

from mmgevent.machine.cgroups import ControlGroups, Limits

MIB = 2**20
UNLIMITED = "9223372036854771712\n"
V2 = "31 23 0:28 {root} {point} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "35 31 0:32 {root} {point} rw,relatime - cgroup cgroup rw,{names}\n"
OTHERS = "22 1 254:0 / / rw - ext4 /dev/vda rw\n23 22 0:21 / /proc rw - proc proc rw\n"


class Machine:
    """A folder that stands for "/"."""

    def __init__(self, path):
        self.path = path

    def write(self, path, text):
        file = self.path / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def be_in(self, groups, mounts):
        self.write("/proc/self/cgroup", groups)
        self.write("/proc/self/mountinfo", OTHERS + mounts)

    def limit(self, folder, **files):
        for name, text in files.items():
            self.write(f"{folder}/{name.replace('__', '.')}", f"{text}\n")

    @property
    def groups(self):
        return ControlGroups(str(self.path))

    @property
    def limits(self):
        return self.groups.limits


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def modern(machine):
    """Version 2, seen whole, with a group that has two above it."""
    machine.be_in("0::/outer/inner/own\n", V2.format(root="/", point="/sys/fs/cgroup"))
    return machine


FOLDER = "/sys/fs/cgroup"


def test_without_limits_there_are_none(modern):
    modern.limit(f"{FOLDER}/outer/inner/own", memory__max="max", memory__high="max", cpu__max="max 100000")
    assert modern.limits == Limits(None, None)


@pytest.mark.parametrize("group", ["", "/outer", "/outer/inner", "/outer/inner/own"])
def test_a_limit_of_any_group_above_counts(modern, group):
    modern.limit(f"{FOLDER}{group}", memory__max=700 * MIB, cpu__max="150000 100000")
    assert modern.limits == Limits(1.5, 700 * MIB)


def test_the_smallest_limit_counts_of_each_kind(modern):
    modern.limit(f"{FOLDER}/outer", memory__max=300 * MIB, cpu__max="400000 100000")
    modern.limit(f"{FOLDER}/outer/inner/own", memory__max=900 * MIB, cpu__max="50000 100000")
    assert modern.limits == Limits(0.5, 300 * MIB)


def test_a_group_beside_or_below_does_not_count(modern):
    modern.limit(f"{FOLDER}/outer/other", memory__max=MIB)
    modern.limit(f"{FOLDER}/outer/inner/own/child", memory__max=MIB, cpu__max="1000 100000")
    assert modern.limits == Limits(None, None)


def test_memory_high_counts_since_the_kernel_slows_down_what_goes_beyond(modern):
    modern.limit(f"{FOLDER}/outer/inner/own", memory__max=900 * MIB, memory__high=500 * MIB)
    assert modern.limits.memory_bytes == 500 * MIB


def test_a_quota_without_a_period_is_of_the_usual_one(modern):
    modern.limit(f"{FOLDER}/outer/inner/own", cpu__max="250000")
    assert modern.limits.cores == 2.5


@pytest.mark.parametrize("text", ["", "nonsense", "-1", "0", "max max", "\0"])
def test_what_cannot_be_understood_limits_nothing(modern, text):
    modern.limit(f"{FOLDER}/outer/inner/own", memory__max=text, memory__high=text, cpu__max=text)
    assert modern.limits == Limits(None, None)


def test_files_that_cannot_be_read_limit_nothing(modern):
    (modern.path / "sys/fs/cgroup/outer/inner/own/memory.max").mkdir(parents=True)
    modern.limit(f"{FOLDER}/outer", memory__max=400 * MIB)
    assert modern.limits.memory_bytes == 400 * MIB


def test_in_a_namespace_the_own_group_is_called_the_root(machine):
    machine.be_in("0::/\n", V2.format(root="/", point="/sys/fs/cgroup"))
    machine.limit(FOLDER, memory__max=256 * MIB, cpu__max="200000 100000")
    assert machine.limits == Limits(2.0, 256 * MIB)


def test_without_a_namespace_the_mount_shows_the_own_group_at_its_top(machine):
    machine.be_in("0::/docker/abc\n", V2.format(root="/docker/abc", point="/sys/fs/cgroup"))
    machine.limit(FOLDER, memory__max=256 * MIB)
    assert machine.limits.memory_bytes == 256 * MIB


def test_a_group_below_that_of_the_container_is_found_under_the_mount(machine):
    machine.be_in("0::/docker/abc/job\n", V2.format(root="/docker/abc", point="/sys/fs/cgroup"))
    machine.limit(f"{FOLDER}/job", memory__max=100 * MIB)
    machine.limit(FOLDER, memory__max=256 * MIB, cpu__max="300000 100000")
    assert machine.limits == Limits(3.0, 100 * MIB)


def test_a_root_that_only_begins_like_the_group_is_another(machine):
    mounts = V2.format(root="/docker/ab", point="/other") + V2.format(root="/docker", point="/sys/fs/cgroup")
    machine.be_in("0::/docker/abc\n", mounts)
    machine.limit("/other", memory__max=MIB)
    machine.limit(f"{FOLDER}/abc", memory__max=256 * MIB)
    assert machine.limits.memory_bytes == 256 * MIB


def test_the_mount_that_shows_most_is_taken(machine):
    mounts = V2.format(root="/docker/abc", point="/sys/fs/cgroup") + V2.format(root="/", point="/host/cgroup")
    machine.be_in("0::/docker/abc\n", mounts)
    machine.limit("/host/cgroup/docker", memory__max=200 * MIB)
    machine.limit("/host/cgroup/docker/abc", memory__max=256 * MIB)
    assert machine.limits.memory_bytes == 200 * MIB


@pytest.mark.parametrize("group", ["/../../elsewhere", "/..", "/not/mounted"])
def test_of_a_group_outside_of_the_namespace_what_is_mounted_counts(machine, group):
    machine.be_in(f"0::{group}\n", V2.format(root="/", point="/sys/fs/cgroup"))
    machine.limit(FOLDER, memory__max=256 * MIB)
    assert machine.limits.memory_bytes == 256 * MIB


def test_the_mount_point_may_have_blanks_in_its_name(machine):
    machine.be_in("0::/own\n", V2.format(root="/", point=r"/my\040groups\134here"))
    machine.limit(r"/my groups\here/own", memory__max=256 * MIB)
    assert machine.limits.memory_bytes == 256 * MIB


def old_groups(machine, group, root="/"):
    """Version 1: a hierarchy for each controller, two of them together."""
    machine.be_in(
        f"5:memory:{group}\n4:pids:{group}\n3:cpuset:/\n2:cpu,cpuacct:{group}\n1:name=systemd:{group}\n",
        V1.format(root=root, point="/sys/fs/cgroup/memory", names="memory")
        + V1.format(root=root, point="/sys/fs/cgroup/pids", names="pids")
        + V1.format(root=root, point="/sys/fs/cgroup/cpu,cpuacct", names="cpu,cpuacct"),
    )


def test_version_1_has_a_folder_for_each_controller(machine):
    old_groups(machine, "/docker/abc")
    machine.limit(f"{FOLDER}/memory/docker/abc", memory__limit_in_bytes=700 * MIB)
    machine.limit(f"{FOLDER}/cpu,cpuacct/docker", cpu__cfs_quota_us=250_000, cpu__cfs_period_us=100_000)
    machine.limit(f"{FOLDER}/cpu,cpuacct/docker/abc", cpu__cfs_quota_us=-1, cpu__cfs_period_us=100_000)
    machine.limit(f"{FOLDER}/pids/docker/abc", pids__max=12)
    assert machine.limits == Limits(2.5, 700 * MIB)
    assert machine.groups.find_process_limit() == 12


def test_version_1_writes_no_limit_as_a_large_number(machine):
    old_groups(machine, "/docker/abc")
    machine.write(f"{FOLDER}/memory/docker/abc/memory.limit_in_bytes", UNLIMITED)
    machine.write(f"{FOLDER}/memory/memory.limit_in_bytes", UNLIMITED)
    machine.limit(f"{FOLDER}/pids/docker/abc", pids__max="max")
    assert machine.limits == Limits(None, None)
    assert machine.groups.find_process_limit() is None


def test_version_1_tells_of_groups_above_that_a_container_does_not_see(machine):
    old_groups(machine, "/pod/abc", root="/pod/abc")
    machine.write(f"{FOLDER}/memory/memory.limit_in_bytes", UNLIMITED)
    machine.write(f"{FOLDER}/memory/memory.stat", f"cache 0\nhierarchical_memory_limit {300 * MIB}\nrss 5\n")
    assert machine.limits.memory_bytes == 300 * MIB


def test_both_versions_at_once(machine):
    old_groups(machine, "/own")
    groups = (machine.path / "proc/self/cgroup").read_text() + "0::/own\n"
    mounts = (machine.path / "proc/self/mountinfo").read_text() + V2.format(
        root="/", point="/sys/fs/cgroup/unified"
    )
    machine.be_in(groups, mounts)
    machine.limit(f"{FOLDER}/memory/own", memory__limit_in_bytes=700 * MIB)
    machine.limit(f"{FOLDER}/unified/own", cpu__max="100000 100000")
    assert machine.limits == Limits(1.0, 700 * MIB)


def test_without_proc_the_usual_places_are_looked_at(machine):
    machine.limit(FOLDER, memory__max=256 * MIB, cpu__max="50000 100000")
    assert machine.limits == Limits(0.5, 256 * MIB)
    machine.limit(f"{FOLDER}/memory", memory__limit_in_bytes=100 * MIB)
    assert machine.limits.memory_bytes == 100 * MIB


def test_without_control_groups_there_are_no_limits(machine):
    assert machine.limits == Limits(None, None)
    machine.be_in("", "")
    assert machine.limits == Limits(None, None)
    assert machine.groups.count_memory_kills() is None
    assert machine.groups.find_process_limit() is None


def test_lines_that_are_no_lines_of_these_files_are_left_out(machine):
    machine.be_in(
        "\nx\n0::/own\n:::\n", "x\n - cgroup2\n1 2 3\n" + V2.format(root="/", point="/sys/fs/cgroup")
    )
    machine.limit(f"{FOLDER}/own", memory__max=256 * MIB)
    assert machine.limits.memory_bytes == 256 * MIB


def test_kills_for_want_of_memory_are_counted_by_the_own_group(modern):
    assert modern.groups.count_memory_kills() is None
    modern.write(f"{FOLDER}/outer/memory.events", "low 0\nhigh 3\nmax 9\noom 9\noom_kill 9\n")
    assert modern.groups.count_memory_kills() == 9  # it counts those below, too
    groups = modern.groups
    modern.write(f"{FOLDER}/outer/inner/own/memory.events", "low 0\nhigh 3\nmax 9\noom 2\noom_kill 2\n")
    assert groups.count_memory_kills() == 2


def test_version_1_counts_kills_in_another_file(machine):
    old_groups(machine, "/own")
    machine.write(f"{FOLDER}/memory/own/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
    assert machine.groups.count_memory_kills() == 4


def test_this_machine_can_be_read():
    cores, memory_bytes = ControlGroups().limits
    assert cores is None or cores > 0
    assert memory_bytes is None or memory_bytes > 0
