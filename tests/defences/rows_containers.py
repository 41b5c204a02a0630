"""Rows about containers: what enters them, their files, programs, logs and resources."""

from defence import Change, Defence  # type: ignore[import-not-found]

PROCESS = "tests/kernel/test_security_process.py::"
MOUNTS = "tests/kernel/test_security_mounts.py::"
COPY = "tests/kernel/test_security_copy.py::"
CONFINED = "tests/kernel/test_confinement.py::"
INROOT = "tests/unit/libcontainer/test_inroot.py::"

ROWS = (
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
)  # fmt: skip
