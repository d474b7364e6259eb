use super::*;
use crate::{
    engine::filter::tests::filter,
    events::{Name, Owner},
};

const HERE: u32 = 4_026_531_840;
const CLOSED: u32 = 4_026_532_177;
const NOWHERE: u32 = 17;

fn resident(pid: u32, comm: &str, netns: Option<u32>) -> Resident {
    let owner = Owner {
        comm: Some(Name::from_bytes(comm.as_bytes())),
        uid: Some(1000),
        cgroup: Some("/app.slice/web.service".into()),
        container: (pid == 7).then(|| "3f2a9c7d1b0e".repeat(5).into()),
        ..Owner::once(pid)
    };
    Resident { owner, netns, shows_descriptors: pid != 9, is_kernel_thread: pid == 2 }
}

/// `python3` here, `java` in a namespace that may not be entered, and `hidden`, of which neither namespace nor descriptors
/// may be seen.
fn residents() -> Residents {
    let listed = vec![
        resident(7, "python3", Some(HERE)),
        resident(8, "java", Some(CLOSED)),
        resident(2, "kthreadd", None),
        resident(9, "hidden", None),
    ];
    Residents { listed, lists_all: true, asks_all: true }
}

/// The same without the one of which not all may be seen.
fn open_residents() -> Residents {
    let mut residents = residents();
    residents.listed.pop();
    residents
}

fn walk() -> Walk {
    Walk {
        namespaces: [HERE].into_iter().collect(),
        left_out: [CLOSED].into_iter().collect(),
        ..Walk::default()
    }
}

fn all_entered() -> Walk {
    Walk { namespaces: [HERE, CLOSED].into_iter().collect(), left_out: FxHashSet::default(), ..walk() }
}

fn unseen(arguments: &str, walk: &Walk, residents: &Residents) -> CoverageGaps {
    let has_cgroup = |path: &str| path == "/empty.slice";
    CoverageGaps::find_gaps(&filter(arguments), walk, residents, &has_cgroup, &BTreeSet::new())
}

#[test]
fn what_a_filter_names_has_to_be_there() {
    for (arguments, words) in [
        ("--pid 4194303", "no process has the pid 4194303"),
        ("--pid 7,4194303", "no process has the pid 4194303"),
        ("--pid 10-20", "no process has a pid in 10-20"),
        ("--comm python", "no process is named `python`, but one is named `python3`"),
        ("--comm postgres", "no process is named `postgres`"),
        ("--uid 4711", "no process runs as user 4711"),
        ("--cgroup /nope", "there is no cgroup /nope"),
        ("--container deadbeef", "whose id begins with deadbeef; there are 3f2a9c7d1b0e"),
        ("--netns 17", "there is no network namespace 17"),
        ("--pid 7 --comm java", "no process passes all of these filters"),
    ] {
        let unseen = unseen(arguments, &all_entered(), &open_residents());
        assert_eq!(unseen.missing.len(), 1, "{arguments}");
        assert_eq!(
            unseen,
            CoverageGaps { missing: unseen.missing.clone(), ..CoverageGaps::default() },
            "{arguments}"
        );
        assert!(unseen.describe_gaps().ends_with(words), "{arguments}: {}", unseen.describe_gaps());
        assert!(unseen.refusal_message().contains("check the filter"), "{arguments}");
        assert!(!unseen.refusal_message().contains("CAP_"), "{arguments}");
    }
    for arguments in [
        "",
        "--pid 7",
        "--pid 1-10",
        "--comm kthreadd",
        "--comm python3,java",
        "--uid 0-1000",
        "--cgroup /app.slice",
        "--cgroup /empty.slice",
        "--container 3f2a9c",
        "--netns 4026531840",
        "--port 9999",
        "--remote 10.0.0.0/8",
    ] {
        assert_eq!(
            unseen(arguments, &all_entered(), &open_residents()),
            CoverageGaps::default(),
            "{arguments}"
        );
    }
}

#[test]
fn a_namespace_that_was_not_entered_matters_where_it_was_asked_about() {
    let closed = || CoverageGaps { namespaces: vec![CLOSED], ..CoverageGaps::default() };
    for (arguments, expected) in [
        ("", closed()),
        ("--port 80", closed()),
        ("--netns 4026532177", closed()),
        ("--netns 4026531840", CoverageGaps::default()),
        ("--comm java", closed()),
        ("--comm python3", CoverageGaps::default()),
        ("--pid 7", CoverageGaps::default()),
        ("--pid 7-8", closed()),
    ] {
        assert_eq!(unseen(arguments, &walk(), &open_residents()), expected, "{arguments}");
    }
    let refusal = closed().refusal_message();
    for words in ["1 network namespace (4026532177) could not be entered", "why:", "do:", "CAP_SYS_ADMIN"] {
        assert!(refusal.contains(words), "{refusal}");
    }
}

#[test]
fn processes_that_may_not_be_seen_matter_unless_they_are_not_the_ones_asked_about() {
    let limited = Residents { asks_all: false, ..residents() };
    let walk = all_entered();
    let processes = || CoverageGaps { processes: true, ..CoverageGaps::default() };
    for (arguments, expected) in [
        ("", processes()),
        ("--port 80", processes()),
        ("--comm python3", CoverageGaps::default()),
        ("--netns 4026531840", CoverageGaps::default()),
        ("--comm hidden", CoverageGaps { descriptors: vec![9], ..processes() }),
    ] {
        assert_eq!(unseen(arguments, &walk, &limited), expected, "{arguments}");
    }
    assert!(processes().refusal_message().contains("CAP_SYS_PTRACE"));
    assert!(unseen("--comm hidden", &walk, &limited).refusal_message().contains("1 process (9)"));
    // hidepid: others of the same name may be hidden.
    let hidden = Residents { lists_all: false, ..limited };
    for arguments in ["--comm python3", "--pid 7", "--comm python3 --netns 4026531840"] {
        assert_eq!(unseen(arguments, &walk, &hidden), processes(), "{arguments}");
    }
}

#[test]
fn a_namespace_that_only_a_socket_leads_to_is_there() {
    let mut walk = all_entered();
    assert_eq!(unseen("--netns 17", &walk, &residents()).missing, [Missing::Namespace(NOWHERE)]);
    let listener = SocketRow { netns: NOWHERE, state: state::LISTEN, ..bytemuck::Zeroable::zeroed() };
    walk.sockets.push(listener);
    for arguments in ["", "--netns 17"] {
        assert_eq!(unseen(arguments, &walk, &open_residents()), CoverageGaps::default(), "{arguments:?}");
    }
    // What waits in its queue has no descriptor.
    walk.sockets.push(SocketRow { unread: 1, ..listener });
    for arguments in ["", "--netns 17"] {
        let queue = CoverageGaps { namespaces: vec![NOWHERE], ..CoverageGaps::default() };
        assert_eq!(unseen(arguments, &walk, &open_residents()), queue, "{arguments:?}");
    }
    assert_eq!(unseen("--comm python3", &walk, &open_residents()), CoverageGaps::default());
}

#[test]
fn names_and_ids_that_are_shown_cannot_move_the_cursor() {
    let mut residents = residents();
    residents.listed[0].owner.comm = Some(Name::from_bytes(b"pyth\x1b[2J"));
    residents.listed[0].owner.container = Some("\x1b[2J".into());
    for arguments in ["--comm python", "--container deadbeef"] {
        let words = unseen(arguments, &all_entered(), &residents).refusal_message();
        assert!(words.contains("[2J") && !words.contains('\x1b'), "{words:?}");
    }
}

#[test]
fn many_are_counted_and_some_are_shown() {
    assert_eq!(format_count(&[1], "process"), "1 process (1)");
    assert_eq!(
        format_count(&[1, 2, 3, 4, 5, 6], "network namespace"),
        "6 network namespaces (1, 2, 3, 4, 5, …)"
    );
    assert_eq!(format_count(&[1, 2], "process"), "2 processes (1, 2)");
}

#[test]
fn a_process_that_does_not_say_what_it_runs_may_be_the_one_asked_for() {
    let mut residents = open_residents();
    let named = |owner: &mut Owner| {
        (owner.exe, owner.program) = (Some("/usr/bin/python3".into()), Some("python3 worker.py".into()));
    };
    residents.listed.iter_mut().for_each(|resident| named(&mut resident.owner));
    assert!(unseen("--program worker", &all_entered(), &residents).is_empty());
    residents.listed[0].owner.program = None;
    for (arguments, unnamed) in [("--program worker", vec![7]), ("--comm java", vec![])] {
        assert_eq!(unseen(arguments, &all_entered(), &residents).unnamed, unnamed, "{arguments}");
    }
    let missing = unseen("--program other", &all_entered(), &residents).missing;
    assert_eq!(missing, [], "it may be what the first one runs");
    let refusal = unseen("--program worker", &all_entered(), &residents).refusal_message();
    assert!(refusal.contains("what is run by 1 process (7) cannot be read"), "{refusal}");
    assert!(
        refusal.contains("filter by --pid or --comm") && !refusal.contains("run it as root"),
        "{refusal}"
    );
    let holders = BTreeSet::from([9]);
    let all =
        CoverageGaps::find_gaps(&filter("--program java"), &all_entered(), &residents, &|_| true, &holders);
    assert_eq!(all.unnamed, [7, 9], "a holder need not have answered when it was looked at");
}
