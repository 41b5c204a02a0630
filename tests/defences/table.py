"""What stands between a hostile image, container or client and the host, and the tests that miss it when it is gone.

Each row names a section of docs/security.md, what is taken out of the source, and tests of which each must then fail.
Where two defences overlap, a row takes out both, and says so: either alone would still hold.
"""

from typing import NamedTuple


class Change(NamedTuple):
    """Replace `old`, which occurs once in the file below src/boxwright, by `new`."""

    file: str
    old: str
    new: str


class Defence(NamedTuple):
    """overlap: why more than one thing is taken out."""

    section: str
    name: str
    changes: tuple[Change, ...]
    tests: tuple[str, ...]
    overlap: str = ""


PROCESS = "tests/kernel/test_security_process.py::"
MOUNTS = "tests/kernel/test_security_mounts.py::"
COPY = "tests/kernel/test_security_copy.py::"
CONFINED = "tests/kernel/test_confinement.py::"
BUILDS = "tests/clients/"
HOSTILE = "tests/kernel/test_hostile_archives.py::"
AUTHORIZATION = "tests/api/test_authorization.py::"
REQUESTS = "tests/api/test_hostile_requests.py::test_over_the_fake"
INROOT = "tests/unit/libcontainer/test_inroot.py::"

DEFENCES = (
    # What enters a container
    Defence(
        "interpreter", "the launcher runs from a sealed copy",
        (Change("linux/memfd.py", "fd = sealed_copy(program)", "fd = os.open(program, os.O_RDONLY)"),),
        ("tests/kernel/test_sealed_interpreter.py::test_a_sealed_copy",
         "tests/kernel/test_shim_deaths.py::test_ours_run_from_a_sealed_file_and_cannot_be_traced"),
    ),
    Defence(
        "interpreter", "the copy is sealed",
        (Change("linux/memfd.py", "fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)", "pass"),),
        (PROCESS + "test_sealing_helpers",),
    ),
    Defence(
        "interpreter", "where memfds do not execute, the mount is read-only",
        (Change("linux/memfd.py", "mount.set_attributes(fd, mount.ATTR_RDONLY, name=path)", "pass"),),
        (PROCESS + "test_sealing_helpers",),
    ),
    Defence(
        "interpreter", "init cannot be traced until execve",
        (Change("libcontainer/init.py", "    process.set_dumpable(False)\n    gc.disable()", "    gc.disable()"),
         Change("libcontainer/credentials.py", "        process.set_dumpable(False)\n", "")),
        (PROCESS + "TestInterpreterIsSealed::test_root_inside_cannot_trace_it",),
        "non-dumpable from its first act, and again with the program's ids (which the kernel does for ids other than 0)",
    ),
    Defence(
        "no import", "nothing is imported in a container's root",
        (Change("libcontainer/init.py", "        found.clear()", "        pass"),),
        (PROCESS + "TestNothingIsLoadedFromTheRoot::test_an_import_inside_finds_nothing",
         PROCESS + "TestNothingIsLoadedFromTheRoot::test_an_import_inside_finds_nothing_in_an_exec"),
    ),
    Defence(
        "no import", "nothing is imported in a confined job's root",
        (Change("launcher/newroot.py", "        places.clear()", "        pass"),),
        (CONFINED + "test_nothing_is_imported_from_the_root",),
    ),
    Defence(
        "exec", "credentials are final before the fork into the pid namespace",
        (Change("libcontainer/handover.py",
                "        wanted.credentials.take(wanted.user, wanted.die_with_parent)\n", ""),
         Change("libcontainer/handover.py", "    if wanted.subreaper:\n        try:",
                "    wanted.credentials.take(wanted.user, wanted.die_with_parent)\n    if wanted.subreaper:\n        try:")),
        (PROCESS + "TestExecHelper::test_what_appears_inside_is_final[at once]",),
    ),
    Defence(
        "exec", "descriptors are closed before the fork into the pid namespace",
        (Change("libcontainer/handover.py", "        process.close_all_except(keep)\n        fork_again", "        fork_again"),),
        (PROCESS + "TestExecHelper::test_what_appears_inside_is_final",
         PROCESS + "TestExecHelper::test_init_that_joins_another_pid_namespace_is_final_too"),
    ),
    Defence(
        "exec", "the terminal of an exec comes from a devpts",
        (Change("libcontainer/setns.py", "if not console.is_devpts(directory):", "if False:"),),
        (PROCESS + "TestExecHelper::test_hostile_devpts_is_refused",),
    ),
    Defence(
        "exec", "nothing lies over the multiplexer of that devpts",
        (Change("libcontainer/console.py", " | inroot.RESOLVE_NO_XDEV", ""),
         Change("libcontainer/console.py", "or info.st_rdev != _PTMX", "")),
        (PROCESS + "TestExecHelper::test_covered_multiplexer_is_refused",),
        "no mount point is crossed, and the device's number is looked at",
    ),
    Defence(
        "exec", "an exec ends with its program, whoever holds its streams",
        (Change("launcher/streams.py", "self._loop.at(min(self._limit, monotonic_ns() + QUIET_NS), self._finish_drain)", "pass"),),
        ("tests/unit/launcher/test_streams.py::test_drain_is_bounded_when_somebody_holds_the_pipe",),
    ),
    # Paths and mounts
    Defence(
        "paths", "the container's root is the root of every path",
        (Change("linux/inroot.py",
                "    return openat2(root_fd, path, flags, RESOLVE_IN_ROOT | resolve, mode)",
                "    return openat2(root_fd, os.path.normpath('/' + path)[1:] or '.', flags, resolve, mode)"),),
        (MOUNTS + "TestMountTargets::test_absolute_link_stays_inside",
         MOUNTS + "TestDevIsALink::test_is_resolved_inside",
         MOUNTS + "TestDevIsALink::test_without_a_mount_nodes_stay_inside_too",
         INROOT + "test_absolute_and_dotted_links_stay_inside",
         INROOT + "test_nothing_ever_leaves_the_root"),
    ),
    Defence(
        "paths", "a directory that appears while one is made is no link",
        (Change("linux/inroot.py",
                "below = openat2(current, part, flags, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)",
                "below = openat2(current, part, flags, 0)"),),
        (INROOT + "test_a_link_that_appears_meanwhile_is_not_followed[directory]",),
    ),
    Defence(
        "paths", "a file that appears while one is made is no link",
        (Change("linux/inroot.py",
                "return openat2(parent, name, os.O_PATH, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)",
                "return openat2(parent, name, os.O_PATH, 0)"),),
        (INROOT + "test_a_link_that_appears_meanwhile_is_not_followed[file]",),
    ),
    Defence(
        "paths", "no file is made through a link",
        (Change("linux/inroot.py", "flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC", "flags = os.O_CREAT"),),
        (MOUNTS + "TestMountTargets::test_dangling_link_is_not_made_up_for",),
        "O_EXCL and O_NOFOLLOW both refuse a link",
    ),
    Defence(
        "paths", "a subpath stays below its volume",
        (Change("libcontainer/sources.py", "inroot.RESOLVE_BENEATH | inroot.RESOLVE_NO_MAGICLINKS", "0"),),
        (MOUNTS + "TestSubpaths::test_link_swapped_in_while_opening",
         MOUNTS + "TestSubpaths::test_no_spelling_leads_out[../victim]"),
    ),
    Defence(
        "mounts", "a volume plugin's mount point is an absolute path",
        (Change("volumes/external.py", "    return os.path.normpath(str(told))", "    return str(told)"),
         Change("volumes/external.py", "    if not good or", "    if False and")),
        ("tests/kernel/test_volume_plugins.py::test_a_mount_that_lies[relative]",
         "tests/kernel/test_volume_plugins.py::test_a_mount_that_lies[dots]"),
    ),
    Defence(
        "mounts", "proc and sysfs are not mounted through a link",
        (Change("libcontainer/mounts.py", "resolve = inroot.RESOLVE_NO_SYMLINKS if kernel else 0", "resolve = 0"),),
        (MOUNTS + "TestKernelFileSystems::test_link_is_refused",
         MOUNTS + "TestKernelFileSystems::test_link_on_the_way_is_refused"),
    ),
    Defence(
        "mounts", "nothing is mounted over parts of /proc",
        (Change("libcontainer/mounts.py",
                "    raise fault(errno.EPERM, \"mount (below /proc)\", destination)", "    return"),),
        (MOUNTS + "TestKernelFileSystems::test_nothing_is_mounted_over_parts_of_proc",
         MOUNTS + "TestKernelFileSystems::test_a_volume_over_proc_is_refused"),
    ),
    Defence(
        "mounts", "kernel settings are written through a private procfs",
        (Change("libcontainer/sysctls.py", "inroot.openat2(world.proc(), \"sys/\"", "inroot.openat2(world.root_fd, \"proc/sys/\""),),
        (MOUNTS + "TestKernelFileSystems::test_sysctls_go_to_the_kernel_whatever_the_image_has_at_proc",),
    ),
    Defence(
        "mounts", "a masked file is covered by the kernel's null device",
        (Change("libcontainer/masks.py", "mount.open_tree(world.null_fd, \"\")", "mount.open_tree(world.root_fd, \"dev/null\")"),),
        (MOUNTS + "TestNullAndConsole::test_masks_are_the_null_device_under_another_dev",),
    ),
    Defence(
        "mounts", "a device that is there already is the one that it claims to be",
        (Change("libcontainer/nodes.py",
                "            self._check(os.stat(name, dir_fd=directory, follow_symlinks=False))", "            pass"),),
        (MOUNTS + "TestNullAndConsole::test_a_false_device_in_the_image_is_refused",
         MOUNTS + "TestNullAndConsole::test_masks_use_the_hosts_null_device"),
    ),
    Defence(
        "mounts", "the terminal is bound over /dev/console itself",
        (Change("libcontainer/init.py",
                "inroot.openat2(directory, name, os.O_PATH, inroot.RESOLVE_BENEATH | inroot.RESOLVE_NO_SYMLINKS)",
                "inroot.openat2(directory, name, os.O_PATH, 0)"),),
        (MOUNTS + "TestNullAndConsole::test_console_is_never_bound_through_a_link[/etc/passwd]",),
    ),
    Defence(
        "mounts", "masked paths are masked",
        (Change("libcontainer/init.py", "masks.Mask(path) for path in linux.get(\"maskedPaths\") or ()", "masks.Mask(path) for path in ()"),),
        ("tests/kernel/test_init.py::test_masked_and_read_only_paths",),
    ),
    Defence(
        "mounts", "read-only paths are read-only",
        (Change("libcontainer/init.py", "masks.ReadOnly(path) for path in linux.get(\"readonlyPaths\") or ()", "masks.ReadOnly(path) for path in ()"),),
        ("tests/kernel/test_init.py::test_masked_and_read_only_paths",),
    ),
    Defence(
        "mounts", "cgroups without a namespace of their own are read-only",
        (Change("libcontainer/hierarchies.py", "self.read_only = userns or not self.writable", "self.read_only = False"),),
        (MOUNTS + "TestCgroupFileSystem::test_is_read_only",),
    ),
    # The program
    Defence(
        "program", "inheritable capabilities are empty",
        (Change("libcontainer/credentials.py", "permitted, 0, ambient)", "permitted, permitted, ambient)"),),
        (PROCESS + "TestCapabilities::test_inheritable_is_empty",),
    ),
    Defence(
        "program", "the bounding set is the one that was asked for",
        (Change("libcontainer/credentials.py", "        capabilities.limit_bounding(self.bounding, self.present)\n", ""),),
        ("tests/kernel/test_init.py::test_a_user_loses_effective_capabilities_but_keeps_the_bound",),
    ),
    Defence(
        "program", "no_new_privs is set",
        (Change("libcontainer/credentials.py", "            process.set_no_new_privileges()", "            pass"),),
        ("tests/kernel/test_init.py::test_no_new_privileges",),
    ),
    Defence(
        "program", "no descriptor reaches it",
        (Change("libcontainer/init.py", "    process.close_all_except(keep)\n    if die", "    if die"),
         Change("libcontainer/handover.py", "    process.close_on_exec_from(3)\n", "")),
        (PROCESS + "TestDescriptors::test_none_reaches_the_program",),
        "closed as the child's first act, and marked close-on-exec before the last",
    ),
    Defence(
        "program", "the working directory is inside its root",
        (Change("libcontainer/handover.py", "    if not path.startswith(\"/\"):", "    if False:"),),
        (PROCESS + "TestDescriptors::test_directory_outside_is_noticed",),
    ),
    Defence(
        "program", "a number is an id",
        (Change("libcontainer/users.py", "found_uid, gid, home, entry_name = _checked(uid), 0, \"/\", \"\"",
                "found_uid, gid, home, entry_name = 0, 0, \"/\", \"\""),),
        (PROCESS + "TestUsers::test_exec_runs_as_who_was_asked_for[1-ids0]", "tests/unit/libcontainer/test_users.py::test_table"),
    ),
    Defence(
        "program", "ids do not wrap",
        (Change("libcontainer/users.py",
                "        return _fail(f\"uids and gids must be in range 0-{MAX_ID}\", errno.EINVAL)",
                "        return number & 0xFFFFFFFF"),),
        (PROCESS + "TestUsers::test_ids_out_of_range_are_refused",
         PROCESS + "TestUsers::test_an_entry_out_of_range_is_refused"),
    ),
    Defence(
        "program", "a variable without a value is not the host's",
        (Change("libcontainer/environment.py", "        if name and separator and",
                "        if not separator:\n            import os\n\n            value = os.environ.get(name, \"\")\n        if name and"),),
        (PROCESS + "TestEnvironment::test_malformed_entries_do_not_leak_the_hosts",),
    ),
    Defence(
        "program", "the host's session keyring is left",
        (Change("libcontainer/init.py", "        join_session_keyring()\n\n    def _attach_root", "\n    def _attach_root"),),
        (PROCESS + "TestKeyring::test_the_hosts_session_keyring_is_left",),
    ),
    Defence(
        "program", "AF_ALG is refused",
        (Change("specs/seccomp_default.py", "    (0xFFFFFFFE, 0x24),", "    (0xFFFFFFFC, 0x24),"),),
        ("tests/kernel/test_seccomp.py::test_refused_calls_fail_with_eperm",),
    ),
    Defence(
        "program", "the filter is in force",
        (Change("libcontainer/credentials.py", "        if self.seccomp_bpf and not self.no_new_privileges:", "        if False:"),),
        ("tests/kernel/test_runtime.py::TestLifecycle::test_limits_and_filter",),
    ),
    # Bounded reads
    Defence(
        "bounds", "a file of the container is read up to a limit",
        (Change("linux/inroot.py", "while size <= limit and (part", "while size <= 1 << 32 and (part"),
         Change("linux/inroot.py", "min(65536, limit + 1 - size)", "65536"),
         Change("linux/inroot.py", "        if size > limit:\n            raise", "        if False:\n            raise")),
        (INROOT + "test_bounded_reads",),
    ),
    Defence(
        "bounds", "only regular files are read",
        (Change("linux/inroot.py", "        if not stat.S_ISREG(os.fstat(fd).st_mode):", "        if False:"),),
        (INROOT + "test_bounded_reads",),
    ),
    Defence(
        "bounds", "the documents of an archive are read up to a limit",
        (Change("images/spool.py", "    if length > limit:", "    if False:"),),
        ("tests/kernel/test_images.py::test_lies_are_refused_and_leave_nothing[overlay-manifest is huge]",
         "tests/kernel/test_images.py::test_lies_are_refused_and_leave_nothing[overlay-config is huge]"),
    ),
    Defence(
        "bounds", "labels of an image are counted",
        (Change("specs/image.py", "    if len(config.config.labels or ()) > MOST_LABELS:", "    if False:"),),
        ("tests/kernel/test_images.py::test_lies_are_refused_and_leave_nothing[overlay-a thousand and one labels]",),
    ),
    Defence(
        "bounds", "volumes of an image are counted",
        (Change("specs/image.py", "    if len(config.config.volumes or ()) > MOST_VOLUMES:", "    if False:"),),
        ("tests/kernel/test_images.py::test_lies_are_refused_and_leave_nothing[overlay-hundreds of volumes]",),
    ),
    Defence(
        "bounds", "names of changes are counted",
        (Change("storage/differences.py", "        if left < 0:", "        if False:"),),
        ("tests/kernel/test_layer_diff.py::test_the_names_of_changes_are_bounded",),
    ),
    Defence(
        "bounds", "links of links come to an end",
        (Change("storage/copying.py", " or len(done) + len(parts) > _LONGEST_TARGET", ""),),
        (COPY + "TestLinks::test_a_chain_of_long_links_is_given_up",),
    ),
    Defence(
        "bounds", "patterns over an image's names take linear time",
        (Change("engine/logdest.py", "def _pattern(name: str, expression: str) -> patterns.Pattern:\n",
                "def _pattern(name: str, expression: str) -> patterns.Pattern:\n"
                "    from types import SimpleNamespace\n\n"
                "    return SimpleNamespace(found_in=re.compile(expression).search)\n\n\n"
                "def _unused(name: str, expression: str) -> patterns.Pattern:\n"),),
        ("tests/unit/engine/test_logdest.py::test_a_pattern_takes_linear_time",),
    ),
    # Logs
    Defence(
        "logs", "labels are no fields of journald's own",
        (Change("logger/journald.py", " and not is_reserved(name)", ""),),
        ("tests/unit/logger/test_remote.py::test_labels_name_no_other_container",),
    ),
    Defence(
        "logs", "labels name no other container to journald",
        (Change("logger/journald.py", "if name and name not in fields and", "if name and"),),
        ("tests/unit/logger/test_remote.py::test_labels_name_no_other_container",),
    ),
    Defence(
        "logs", "labels name no other container to Graylog",
        (Change("logger/gelf.py", "extra.setdefault(name, value)", "extra[name] = value"),),
        ("tests/unit/logger/test_remote.py::test_labels_name_no_other_container",),
    ),
    Defence(
        "logs", "labels name no other container to fluentd",
        (Change("logger/fluentd.py", "fixed.setdefault(key, value)", "fixed[key] = value"),),
        ("tests/unit/logger/test_remote.py::test_labels_name_no_other_container",),
    ),
    # Builds
    Defence(
        "builds", "no password of the host goes with a download",
        (Change("images/download.py", "timeout=timeout, auto_decompress", "timeout=timeout, trust_env=True, auto_decompress"),),
        ("tests/unit/test_build_sources.py::test_passwords_of_the_host_are_not_sent",),
    ),
    Defence(
        "builds", "links of a context lead nowhere else",
        (Change("storage/building.py",
                "    confinement.enter(-1)\n    try:\n        fd = inroot.open_in_root(tree, str(args[\"path\"]), _READ)",
                "    try:\n        fd = os.open(str(args[\"path\"]), _READ, dir_fd=tree)"),),
        ("tests/kernel/test_security_build.py::test_nothing_of_the_host_is_read[absolute]",
         "tests/kernel/test_security_build.py::test_nothing_of_the_host_is_read[directory/file]"),
        "resolved in the context, by a job that has no other files",
    ),
    Defence(
        "builds", "what runs git has a root of its own",
        (Change("launcher/programs.py", "    newroot.enter(tree, inside)\n", ""),
         Change("launcher/programs.py", "    os.chdir(WORK)\n", ""),),
        ("tests/kernel/test_repository.py::test_what_its_programs_can_reach",),
    ),
    Defence(
        "builds", "what runs git is nobody",
        (Change("launcher/programs.py", "    newroot.give_up(0, present, NOBODY)\n", ""),),
        ("tests/kernel/test_repository.py::test_what_its_programs_can_reach",),
    ),
    Defence(
        "builds", "submodules come from servers only",
        (Change("storage/repository.py", "if not url.lower().startswith(_SCHEMES) or not", "if not"),),
        ("tests/kernel/test_repository.py::test_submodules_of_the_host",),
    ),
    Defence(
        "builds", "what git fetches and writes is bounded",
        (Change("launcher/programs.py", "    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))\n", ""),
         Change("storage/repository.py", "resource.setrlimit(resource.RLIMIT_FSIZE, (self._left, hard))", "pass"),
         Change("storage/repository.py", "resource.setrlimit(resource.RLIMIT_FSIZE, (self._limit, hard))", "pass"),
         Change("storage/repository.py", "        if self._left <= 0:\n            raise self._too_large()\n", ""),),
        ("tests/kernel/test_repository.py::test_what_is_too_large",),
    ),
    Defence(
        "builds", "only http is fetched",
        (Change("images/download.py", "    if not is_url(url):\n        raise", "    if False:\n        raise"),),
        ("tests/unit/test_build_sources.py::test_only_http_is_fetched",),
    ),
    Defence(
        "builds", "owners of caches are ids",
        (Change("builder/dockerfile/mounts.py", " or int(text, base) > _LARGEST", ""),),
        ("tests/unit/test_build_sources.py::test_owners_of_a_cache_stay_in_range[4294967295]",),
    ),
    # Signatures
    Defence(
        "builds", "what is pulled has to be signed",
        (Change("images/distribution/pull.py",
                "        await signatures.require(dist.settings.required_signatures, registry, name, resolved.digest)\n", ""),),
        ("tests/clients/test_signatures.py::test_only_what_is_signed_is_pulled",),
    ),
    Defence(
        "builds", "a signature is by a key of the policy",
        (Change("images/distribution/signatures.py",
                "if not any(verified(key, signature, answer.body) for key in keys):", "if False:"),),
        ("tests/clients/test_signatures.py::test_only_what_is_signed_is_pulled",),
    ),
    Defence(
        "builds", "a signature is about this repository",
        (Change("images/distribution/signatures.py", "    if signed != repository:", "    if False:"),),
        ("tests/clients/test_signatures.py::test_only_what_is_signed_is_pulled",),
    ),
    # Archives and copies
    Defence(
        "archives", "names do not lead out",
        (Change("storage/tarstream.py",
                "                raise Malformed(f\"invalid path: {name.decode(errors='replace')[:200]!r} leads out of the archive\")",
                "                pass"),),
        (HOSTILE + "test_refused[overlay-../evil]", HOSTILE + "test_refused[vfs-a/../../evil]"),
    ),
    Defence(
        "archives", "what a digest names has that digest",
        (Change("images/archives.py", "        if digest_of(data) != descriptor.digest:", "        if False:"),),
        ("tests/kernel/test_images.py::test_lies_are_refused_and_leave_nothing[overlay-index whose blob is another]",),
    ),
    Defence(
        "archives", "a layer has the digest that its image says",
        (Change("images/load.py", "        if unpacked.diff_id != layer.diff_id:", "        if False:"),),
        ("tests/kernel/test_images.py::test_lies_are_refused_and_leave_nothing[overlay-another layer]",),
    ),
    Defence(
        "archives", "deletions name something",
        (Change("storage/extract.py", "if target in (b\"\", b\".\", b\"..\"):", "if False:"),),
        (HOSTILE + "test_refused[overlay-whiteout of ..]",),
    ),
    Defence(
        "archives", "headers are bounded",
        (Change("storage/tarstream.py", "if not 0 <= size <= _LONGEST_EXTENSION:", "if False:"),),
        ("tests/unit/storage/test_tarstream.py::test_extensions_are_bounded",),
    ),
    Defence(
        "archives", "sparse maps go forwards",
        (Change("storage/tarstream.py", "if offset < end or size < 0", "if size < 0"),),
        (HOSTILE + "test_refused[overlay-sparse that overlaps]",),
    ),
    Defence(
        "archives", "no attribute is the kernel's or overlay's own",
        (Change("storage/extract.py", "allowed = name.startswith(b\"user.\") and not name.startswith(b\"user.overlay.\")", "allowed = True"),),
        ("tests/kernel/test_unpack.py::test_file_capabilities_and_no_other_attribute_of_the_kernel",),
    ),
    Defence(
        "the engine", "what carries IPv6 to a port is nobody",
        (Change("launcher/relay.py", "        os.setresuid(NOBODY, NOBODY, NOBODY)\n", ""),),
        ("tests/kernel/test_relay.py::test_it_has_no_rights_and_ends_with_its_parent",),
    ),
    Defence(
        "the engine", "it takes so many connections at once",
        (Change("launcher/relay.py", "        if self.count >= MOST:\n", "        if False:\n"),),
        ("tests/kernel/test_relay.py::test_more_clients_than_it_takes_at_once",),
    ),
    Defence(
        "the engine", "it knows so many senders of datagrams",
        (Change("launcher/relay.py", "if len(self._known) >= MOST:", "if False:"),),
        ("tests/kernel/test_relay.py::test_of_many_senders_the_longest_silent_is_forgotten",),
    ),
    Defence(
        "jobs", "a job has a root of its own",
        (Change("launcher/confine.py",
                "        _enter(root_fd, detached, self._names, \"job\", mount.ATTR_RDONLY if readonly else 0, self._user)\n"
                "        return os.open(\"/\", _DIRECTORY)",
                "        return root_fd"),),
        (CONFINED + "test_nothing_of_the_host_can_be_reached", COPY + "TestRaces::test_links_of_an_archive_lead_inside"),
    ),
    Defence(
        "jobs", "a job has no capability but those in its row",
        (Change("launcher/newroot.py", "    capabilities.limit_bounding(bits, present)\n", ""),
         Change("launcher/newroot.py", "    capabilities.apply(bits, bits, 0, 0)\n", ""),),
        (CONFINED + "test_no_capability_but_those_that_are_named",),
    ),
    Defence(
        "jobs", "a job has no system call but those it needs",
        (Change("launcher/confine.py", "    jobfilter.install(allowed)\n", ""),),
        (CONFINED + "test_no_program_no_process_no_socket_no_mount",),
    ),
    Defence(
        "jobs", "a job's memory is bounded",
        (Change("launcher/newroot.py", "    (resource.RLIMIT_AS, 2 << 30),\n", ""),),
        (CONFINED + "test_memory_is_bounded",),
    ),
    Defence(
        "jobs", "mount points of a copy are made inside",
        (Change("storage/container_root.py",
                "target = inroot.make_directories(root, path) if is_directory else inroot.make_file(root, path)",
                "os.makedirs(f\"/proc/self/fd/{root}{path}\", exist_ok=True)\n"
                "    target = os.open(f\"/proc/self/fd/{root}{path}\", os.O_PATH)"),),
        (COPY + "TestRaces::test_no_mount_point_is_made_on_the_host",),
    ),
    # Resources
    Defence(
        "resources", "a log has a limit by default",
        (Change("logger/options.py", "DEFAULT_MAX_SIZE = 20 << 20", "DEFAULT_MAX_SIZE = 0"),),
        ("tests/unit/logger/test_options.py::test_a_flood_of_output_does_not_fill_the_disk",),
    ),
    Defence(
        "resources", "/dev/shm has a size",
        (Change("engine/spec.py", "f\"size={size}\"", "\"size=0\""),),
        ("tests/unit/engine/test_spec.py::test_defaults_are_dockers",),
    ),
    Defence(
        "resources", "a fork bomb ends at --pids-limit",
        (Change("libcontainer/cgroups/fs/limits.py", "res.limit(value or -1)", "\"max\""),
         Change("libcontainer/cgroups/fs2/limits.py", "[[(\"pids\", \"pids.max\", res.limit(value or -1))]]", "[[(\"pids\", \"pids.max\", \"max\")]]")),
        ("tests/testsuite/cgroups/test_conformance.py::test_forks_end_at_the_pids_limit",),
        "one for each version of cgroups",
    ),
    Defence(
        "resources", "devices that were not asked for stay shut (v1)",
        (Change("libcontainer/cgroups/fs/manager.py", "wanted = devices.policy(self.resources.get(\"devices\"))", "wanted = devices.Policy(True)"),),
        ("tests/testsuite/cgroups/test_conformance.py::test_the_default_policy_opens_the_usual_devices_only",),
    ),
    # The data root
    Defence(
        "data", "nobody else looks into the data root",
        (Change("engine/wiring.py", "            os.chmod(directory, 0o710)", "            os.chmod(directory, 0o755)"),),
        ("tests/kernel/test_wiring.py::test_nobody_else_looks_into_the_roots",),
    ),
    # The API
    Defence(
        "api", "a plugin is shown the whole body",
        (Change("api/call.py", "        if body and self.case is not None:", "        if False:"),),
        (AUTHORIZATION + "test_a_route_gets_no_body_that_was_not_shown",),
    ),
    Defence(
        "api", "a plugin that does not say yes has denied",
        (Change("api/authorization.py", "if said.get(\"Allow\") is not True:", "if said.get(\"Allow\") is False:"),),
        (AUTHORIZATION + "test_a_plugin_that_fails_has_denied[no-verdict]",),
    ),
    Defence(
        "api", "a plugin is told the path that is routed",
        (Change("api/authorization.py", "quote(decode_path(target), safe=_SAFE)", "target"),),
        (AUTHORIZATION + "test_the_path_is_the_one_that_is_routed",),
    ),
    Defence(
        "api", "bodies are bounded",
        (Change("api/call.py",
                "        if length is not None and length > limit:\n            raise", "        if False:\n            raise"),
         Change("api/call.py", "            if len(whole) > limit:", "            if False:")),
        (AUTHORIZATION + "test_a_body_past_the_limit_reaches_nobody",),
        "by the length that is announced, and by what comes",
    ),
    Defence(
        "api", "browsers of other pages are refused",
        (Change("api/app.py", "    if origin is not None and (not hosts", "    if False and (not hosts"),),
        (REQUESTS + "[asyncio-another origin]", REQUESTS + "[asyncio-null origin]"),
    ),
    Defence(
        "api", "a start with a HostConfig is as closed as a create",
        (Change("engine/startbody.py", "    create.complete(config, host_config, container.id)\n", ""),),
        (BUILDS + "test_old_clients.py::test_it_is_as_closed_as_any_other",),
    ),
    Defence(
        "api", "paths have one spelling",
        (Change("api/router.py", "    if \"/.\" in path and not", "    if False and not"),),
        (REQUESTS + "[asyncio-dot-dot]", REQUESTS + "[asyncio-encoded dot-dot]", REQUESTS + "[asyncio-dot-dot behind the version]"),
    ),
    Defence(
        "api", "paths hold no control characters",
        (Change("api/router.py", "or _CONTROL.search(path) or", "or"),),
        (REQUESTS + "[asyncio-NUL in a path]", REQUESTS + "[asyncio-newline in a path]"),
    ),
    Defence(
        "api", "clients over TLS show a certificate",
        (Change("api/tls.py", "made.verify_mode = ssl.CERT_REQUIRED", "made.verify_mode = ssl.CERT_OPTIONAL"),),
        ("tests/clients/test_remote.py::test_without_a_certificate",),
    ),
    Defence(
        "api", "plain TCP has to be forced",
        (Change("api/listeners.py", "    if remote.context is None and not remote.forced:", "    if False:"),),
        ("tests/api/test_server.py::test_hosts_that_are_refused[tcp://0.0.0.0:0-only loopback]",),
    ),
    Defence(
        "api", "heads are bounded in time",
        (Change("api/protocol.py", "self._head_timer = self._loop.call_later(HEAD_DEADLINE, self._head_late)\n            data = b\"\"",
                "data = b\"\""),),
        ("tests/api/test_connection.py::test_a_head_has_a_deadline",),
    ),
    Defence(
        "api", "heads are bounded in size",
        (Change("api/protocol.py", "        if len(self._head) > MAX_HEAD or data:", "        if False:"),),
        (REQUESTS + "[asyncio-one field too large]", REQUESTS + "[asyncio-request line too long]",),
    ),
    Defence(
        "api", "the socket is its group's",
        (Change("api/listeners.py", "os.chmod(short, 0o660)", "os.chmod(short, 0o666)"),),
        ("tests/api/test_server.py::test_only_the_group_may_connect",),
    ),
    # Builds
    Defence(
        "builds", "no file of a context is a deletion in a layer",
        (Change("storage/building.py", "    if member.startswith(_WHITEOUT) or b\"/\" + _WHITEOUT in member:", "    if False:"),),
        (BUILDS + "test_build_conformance.py::test_refused[docker-a deletion's name]",),
    ),
    Defence(
        "builds", "sources are below the context",
        (Change("builder/copying.py", "        if os.path.normpath(path.lstrip(\"/\")).startswith(\"..\"):", "        if False:"),),
        (BUILDS + "test_build_conformance.py::test_refused[docker-copy out of the context]",),
    ),
    Defence(
        "builds", "a Dockerfile is a regular file of the context",
        (Change("storage/contexts.py", "data = inroot.read_bounded(root, name, _LARGEST_DOCKERFILE)",
                "data = os.read(os.open(name, os.O_RDONLY, dir_fd=root), _LARGEST_DOCKERFILE)"),),
        (BUILDS + "test_build_hostile.py::test_a_dockerfile_that_is_something_else",),
    ),
    Defence(
        "builds", "values are bounded",
        (Change("builder/dockerfile/expand.py", "        if self._size > LONGEST:", "        if False:"),),
        ("tests/unit/builder/test_dockerfile.py::test_variables_of_variables_are_bounded",),
    ),
    Defence(
        "builds", "instructions are bounded",
        (Change("builder/dockerfile/lines.py", "        if count > MOST_INSTRUCTIONS:", "        if False:"),),
        ("tests/unit/builder/test_dockerfile.py::test_the_number_of_instructions_is_bounded",),
    ),
    Defence(
        "builds", "a cache's id is no path",
        (Change("builder/cache_mounts.py", "        name = os.urandom(16).hex()\n", "        name = id[:40].replace(\"/\", \"_\")\n"),),
        (BUILDS + "test_build_hostile.py::test_the_name_of_a_cache_is_no_path[a/b]",),
    ),
)  # fmt: skip
