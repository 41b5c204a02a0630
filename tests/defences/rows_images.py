"""Rows about images: builds, signatures, archives and copies."""

from defence import Change, Defence  # type: ignore[import-not-found]

COPY = "tests/kernel/test_security_copy.py::"
CONFINED = "tests/kernel/test_confinement.py::"
BUILDS = "tests/clients/"
HOSTILE = "tests/kernel/test_hostile_archives.py::"

ROWS = (
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
)  # fmt: skip
