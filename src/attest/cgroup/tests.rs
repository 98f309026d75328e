use std::fs;

use proptest::prelude::*;

use super::*;

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "b0b1b2b3b4b5b6b7b8b9b0b1b2b3b4b5b6b7b8b9b0b1b2b3b4b5b6b7b8b9b0b1";

/// What a text of one or more lines says of containers: ids with their engines.
fn told(text: &str) -> Vec<(String, Engine)> {
    let text = text.replace("{A}", A).replace("{B}", B);
    let cgroups = Cgroups::parse(text.as_bytes()).unwrap();
    let all = cgroups.containers();
    all.map(|(named, engine)| (named.name.to_owned(), engine))
        .collect()
}

#[test]
fn the_forms_of_all_engines_are_read() {
    use Engine::{Docker, Podman};

    let a = |engine| vec![(A.to_owned(), engine)];
    for (text, expected) in [
        // Docker with systemd, with cgroupfs, and below a slice of one's own.
        ("0::/system.slice/docker-{A}.scope\n", a(Docker)),
        ("0::/docker/{A}\n", a(Docker)),
        ("0::/work.slice/docker-{A}.scope/init\n", a(Docker)),
        // containerd of nerdctl and of Kubernetes, both drivers, and CRI-O.
        ("0::/system.slice/nerdctl-{A}.scope\n", a(Docker)),
        (
            "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1b2c3d4e_5f60.slice/cri-containerd-{A}.scope\n",
            a(Docker),
        ),
        (
            "0::/kubepods/burstable/pod1b2c3d4e-5f60-4a7b-8c9d-0e1f2a3b4c5d/{A}\n",
            a(Docker),
        ),
        (
            "0::/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:{A}\n",
            a(Docker),
        ),
        (
            "0::/kubepods.slice/kubepods-pod1.slice/crio-{A}.scope\n",
            a(Docker),
        ),
        // Podman with systemd, with cgroupfs, in a unit of its own, in a pod.
        ("0::/machine.slice/libpod-{A}.scope\n", a(Podman)),
        ("0::/machine.slice/libpod-{A}.scope/container\n", a(Podman)),
        ("0::/libpod_parent/libpod-{A}\n", a(Podman)),
        (
            "0::/system.slice/web.service/libpod-payload-{A}\n",
            a(Podman),
        ),
        ("0::/libpod_parent/{B}/libpod-{A}\n", a(Podman)),
        (
            "0::/machine.slice/machine-libpod_pod_{B}.slice/libpod-{A}.scope/container\n",
            a(Podman),
        ),
        // Rootless: who vouches for it is another question.
        (
            "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope\n",
            a(Podman),
        ),
        // A container in a container: the outer one was made by this machine.
        ("0::/system.slice/docker-{A}.scope/docker/{B}\n", a(Docker)),
        // Version 1 beside version 2.
        (
            "2:cpu,cpuacct:/docker/{A}\n1:name=systemd:/docker/{A}\n0::/\n",
            vec![(A.to_owned(), Docker), (A.to_owned(), Docker)],
        ),
    ] {
        assert_eq!(told(text), expected, "{text}");
    }
}

#[test]
fn what_is_no_container_is_not_taken_for_one() {
    for text in [
        "0::/\n",
        "0::/init.scope\n",
        "0::/system.slice/billing.service\n",
        "0::/user.slice/user-1000.slice/session-3.scope\n",
        // What watches over a container.
        "0::/machine.slice/libpod-conmon-{A}.scope\n",
        "0::/kubepods.slice/crio-conmon-{A}.scope\n",
        // Too long, of other digits, with something behind it, or of the name of a pod.
        "0::/docker/{A}a\n",
        "0::/docker/x{A}\n",
        "0::/docker/{A}.service\n",
        "0::/system.slice/docker-{A}.scope (deleted)\n",
        "0::/machine.slice/machine-libpod_pod_{A}.slice\n",
    ] {
        assert_eq!(told(text), Vec::new(), "{text}");
    }
    let upper = format!("0::/docker/{}\n", A.to_uppercase());
    assert_eq!(told(&upper), Vec::new());
}

#[test]
fn whatever_could_be_a_container_is_not_the_host() {
    let of = |text: &str| {
        let text = text.replace("{A}", A);
        Cgroups::parse(text.as_bytes())
            .unwrap()
            .may_name_a_container()
    };
    for text in [
        "0::/docker/{A}\n",
        "0::/docker/x{A}.y (deleted)\n",
        "1:name=systemd:/docker/{A}\n0::/\n",
        "0::/user.slice/user@1000.service/{A}\n",
    ] {
        assert!(of(text), "{text}");
    }
    assert!(!of("4:memory:/x\n0::/system.slice/a.service\n"));
}

#[test]
fn a_text_that_is_no_cgroup_file_says_nothing() {
    for text in [
        "0::relative\n",
        "0:\n",
        "x::/\n",
        "\n",
        "0::/a\nb\n",
        "0::/\u{0}\n0\n",
    ] {
        assert!(Cgroups::parse(text.as_bytes()).is_none(), "{text:?}");
    }
    assert!(Cgroups::parse(b"0::/\xff\n").is_none());
    // A name may hold what separates fields.
    let odd = format!("0::/a:b/docker-{A}.scope\n");
    assert_eq!(told(&odd).len(), 1);
}

/// A tree that looks like mounted hierarchies, and what `mountinfo` says of it.
fn hierarchies(root: &Path) -> Hierarchies {
    let at = root.display();
    let text = format!(
        "31 23 0:28 / {at} rw - tmpfs tmpfs rw\n\
         garbage\n\
         40 31 0:37 / {at}/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
         33 31 0:30 / {at}/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
         34 31 0:31 /part {at}/part rw,relatime - cgroup cgroup rw,memory\n\
         41 31 0:38 / {at}/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n"
    );
    Hierarchies::parse(text.as_bytes())
}

#[test]
fn a_name_counts_only_where_nobody_but_root_could_have_chosen_it() {
    use std::os::unix::fs::chown;

    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let mounts = hierarchies(root.path());
    for directory in [
        "unified/system.slice/web.service",
        "unified/user.slice/user-1000.slice/user@1000.service/user.slice",
        "systemd/docker",
        "cpu",
        "part",
    ] {
        fs::create_dir_all(root.path().join(directory)).unwrap();
    }
    let own = root
        .path()
        .join("unified/user.slice/user-1000.slice/user@1000.service");
    chown(&own, Some(1000), Some(1000)).unwrap();
    let vouch = |line: &str| {
        let text = line.replace("{A}", A);
        let cgroups = Cgroups::parse(text.as_bytes()).unwrap();
        let (named, _) = cgroups.containers().next().unwrap();
        mounts.vouch_for(&named)
    };
    for line in [
        "0::/docker-{A}.scope\n",
        "0::/system.slice/docker-{A}.scope\n",
        "0::/system.slice/web.service/libpod-payload-{A}\n",
        // Whose directory the container's own is does not matter.
        "1:name=systemd:/docker/{A}\n",
        "3:cpu,cpuacct:/{A}\n",
        "3:cpuacct:/{A}\n",
    ] {
        assert_eq!(vouch(line), Ok(()), "{line}");
    }
    for (line, why) in [
        (
            "0::/user.slice/user-1000.slice/user@1000.service/libpod-{A}.scope\n",
            "user@1000.service\" is of user 1000",
        ),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope\n",
            "user@1000.service\" is of user 1000",
        ),
        ("0::/gone/docker-{A}.scope\n", "No such file"),
        ("0::/../docker-{A}.scope\n", "does not see the cgroup"),
        ("7:memory:/docker-{A}.scope\n", "does not see the cgroup"),
        ("7:freezer:/docker-{A}.scope\n", "does not see the cgroup"),
    ] {
        let told = vouch(line).unwrap_err();
        assert!(told.contains(why), "{line}: {told}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic_or_invent_a_name(
        text in "([0-9]{0,2}:(name=systemd|cpu|)?:(/?([a-z.:\\\\-]{0,9}[0-9a-f]{60,66}(.scope)?| \\(deleted\\)|[^\n]{0,9})){0,4}\n?){0,4}",
        noise in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        fuzz::cgroup(text.as_bytes());
        fuzz::cgroup(&noise);
        fuzz::mountinfo(&noise);
        fuzz::mountinfo(text.as_bytes());
    }
}

#[test]
fn the_unit_is_the_outermost_one_below_the_slices() {
    for (text, unit) in [
        ("0::/system.slice/billing.service\n", "billing.service"),
        ("0::/init.scope\n", "init.scope"),
        (
            "0::/a.slice/a-b.slice/x@1.service/sub/y.service\n",
            "x@1.service",
        ),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/evil.service\n",
            "user@1000.service",
        ),
        (
            "0::/user.slice/user-1000.slice/session-3.scope\n",
            "session-3.scope",
        ),
        ("0::/system.slice/docker-{A}.scope\n", "docker-{A}.scope"),
        ("0::/system.slice/_cpu.service\n", "cpu.service"),
        // Version 1, and both beside each other.
        (
            "4:memory:/x\n1:name=systemd:/system.slice/a.service\n",
            "a.service",
        ),
        (
            "1:name=systemd:/\n0::/system.slice/a.service\n",
            "a.service",
        ),
        (
            "1:name=systemd:/system.slice/a.service\n0::/system.slice/b.service\n",
            "a.service",
        ),
        ("0::/\n", ""),
        ("0::/system.slice\n", ""),
        ("0::/docker/{A}\n", ""),
        ("0::/system.slice/a.service (deleted)\n", ""),
        ("0::/system.slice/sub/a.service\n", ""),
    ] {
        let text = text.replace("{A}", A);
        let cgroups = Cgroups::parse(text.as_bytes()).unwrap();
        let found = cgroups.unit().map_or("", |named| named.name);
        assert_eq!(found, unit.replace("{A}", A), "{text}");
    }
}
