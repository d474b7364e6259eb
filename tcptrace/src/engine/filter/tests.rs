use std::net::{IpAddr, Ipv4Addr};

use clap::Parser as _;

use super::*;

#[derive(clap::Parser)]
struct Arguments {
    #[command(flatten)]
    filter: Filter,
}

fn parse(arguments: &str) -> Result<Filter, clap::Error> {
    let arguments = std::iter::once("tcptrace").chain(arguments.split_whitespace());
    Arguments::try_parse_from(arguments).map(|parsed| parsed.filter)
}

pub(crate) fn filter(arguments: &str) -> Filter {
    parse(arguments).unwrap_or_else(|error| panic!("{arguments}: {error}"))
}

fn socket() -> SocketId {
    SocketId {
        interface: None,
        cookie: 1,
        netns: Some(4_026_531_840),
        family: Family::Ipv4,
        local_addr: Ipv4Addr::new(10, 0, 0, 5).into(),
        local_port: 9666,
        remote_addr: Ipv4Addr::new(10, 1, 2, 3).into(),
        remote_port: 40112,
    }
}

fn owner() -> Owner {
    Owner {
        inner_pids: Some([7].into()),
        comm: Some(Name::from_bytes(b"java")),
        uid: Some(1000),
        cgroup: Some("/app.slice/web.service".into()),
        program: Some("java -jar web.jar".into()),
        unit: Some("web.service".into()),
        container: Some("3f2a9c".into()),
        ..Owner::once(4242)
    }
}

fn is_admitted(arguments: &str) -> bool {
    filter(arguments).admits(&socket(), &[owner()])
}

#[test]
fn each_filter_admits_its_own_and_keeps_back_others() {
    for (admitting, keeping_back) in [
        ("--pid 4242", "--pid 4241"),
        ("--pid 7", "--pid 8"),
        ("--pid 1,4000-5000", "--pid 1-6,8-4241,4243-5000"),
        ("--comm java", "--comm jav"),
        ("--comm nginx,java", "--comm nginx,Java"),
        ("--uid 1000", "--uid 0"),
        ("--uid 999-1001", "--uid 0-999,1001-4294967295"),
        ("--port 9666", "--port 9667"),
        ("--port 40000-41000", "--port 1-9665"),
        ("--local-port 9666", "--local-port 40112"),
        ("--remote-port 40112", "--remote-port 9666"),
        ("--local 10.0.0.0/16", "--local 10.1.0.0/16"),
        ("--local 10.0.0.5", "--local 10.0.0.6"),
        ("--local ::ffff:10.0.0.0/112", "--local ::/0"),
        ("--remote 10.1.2.0/24,fd00::/8", "--remote 10.0.0.0/24,fd00::/8"),
        ("--netns 4026531840", "--netns 4026531841"),
        ("--netns 1,net:[4026531840]", "--netns net:[1]"),
        ("--cgroup /app.slice", "--cgroup /app"),
        ("--cgroup /app.slice/web.service/", "--cgroup /app.slice/web.service/x"),
        ("--cgroup /", "--cgroup /system.slice"),
        ("--cgroup /sys/fs/cgroup/app.slice", "--cgroup /sys/fs/cgroup/web.service"),
        ("--unit web", "--unit app"),
        ("--unit app,web.service", "--unit web.scope"),
        ("--program web.jar", "--program Web"),
        ("--program x,java", "--program java.jar"),
        ("--container 3f2a", "--container f2a9c"),
        ("--container 000,3f2a9c", "--container 3f2a9c0"),
        ("-4", "-6"),
        ("--pid 4242 --port 9666 --uid 1000", "--pid 4242 --port 9666 --uid 1001"),
    ] {
        assert!(is_admitted(admitting), "{admitting}");
        assert!(!is_admitted(keeping_back), "{keeping_back}");
    }
}

#[test]
fn no_filter_admits_everything() {
    assert!(filter("").is_empty());
    assert!(filter("").admits(&socket(), &[]));
    assert!(!filter("-4").is_empty());
}

#[test]
fn one_process_has_to_be_all_that_was_asked_for() {
    let other = Owner { comm: Some(Name::from_bytes(b"nginx")), ..Owner::once(1) };
    let both = [owner(), other];
    assert!(filter("--pid 1 --comm nginx").admits(&socket(), &both));
    assert!(!filter("--pid 1 --comm java").admits(&socket(), &both));
}

#[test]
fn what_is_not_known_is_not_what_was_asked_for() {
    for arguments in ["--comm java", "--uid 0", "--cgroup /", "--container 3", "--unit x", "--program x"] {
        assert!(!filter(arguments).admits(&socket(), &[Owner::once(4242)]), "{arguments}");
    }
    assert!(!filter("--pid 4242").admits(&socket(), &[]));
    assert!(!filter("--netns 1").admits(&SocketId { netns: None, ..socket() }, &[]));
    assert!(filter("--port 9666").admits(&socket(), &[]), "no process is asked for");
}

#[test]
fn a_listener_and_ipv6_have_their_own_addresses() {
    let v6: IpAddr = "fd00::1".parse().expect("an address");
    let socket = SocketId { family: Family::Ipv6, local_addr: v6, remote_addr: v6, ..socket() };
    assert!(filter("--local fd00::/8 -6").admits(&socket, &[]));
    assert!(!filter("--local 0.0.0.0/0").admits(&socket, &[]));
}

#[test]
fn wrong_values_are_refused_with_what_would_be_right() {
    for (arguments, words) in [
        ("--pid -5", "a pid is a number such as 4242"),
        ("--pid --json", "a pid is a number such as 4242"),
        ("--pid abc", "--comm selects by name"),
        ("--pid 1,,2", "a pid is a number such as 4242"),
        ("--pid +1", "a pid is a number such as 4242"),
        ("--pid 1-2-3", "a pid is a number such as 4242"),
        ("--pid 4294967296", "a pid is a number such as 4242"),
        ("--pid 0", "no process has the pid 0"),
        ("--pid 0-5", "no process has the pid 0"),
        ("--uid root", "`id -u NAME` prints it"),
        ("--uid -1", "a user id is a number such as 1000"),
        ("--port 65536", "ports are 1 to 65535"),
        ("--port 70000", "ports are 1 to 65535"),
        ("--port 0", "ports are 1 to 65535"),
        ("--port 0-1023", "ports are 1 to 65535"),
        ("--port http", "a port is a number such as 8080"),
        ("--port -80", "a port is a number such as 8080"),
        ("--local-port 80-", "a port is a number such as 8080"),
        ("--port 9-1", "did you mean 1-9?"),
        ("--remote-port 90-80", "did you mean 80-90?"),
        ("--comm=", "for example --comm nginx"),
        ("--comm nginx,,java", "for example --comm nginx"),
        ("--local 10.0.0.0/33", "at most 32 bits"),
        ("--remote fd00::/129", "at most 32 bits"),
        ("--remote 10.0.0.0/x", "at most 32 bits"),
        ("--remote 10.0.0.5:443", "--remote-port"),
        ("--remote [fd00::1]:443", "--remote-port"),
        ("--remote example.org", "names are not resolved"),
        ("--remote example.org/8", "a network such as 10.0.0.0/8"),
        ("--netns blue", "`lsns -t net` lists them"),
        ("--netns 0", "the inode number"),
        ("--netns -1", "the inode number"),
        ("--cgroup app.slice", "the path of a cgroup"),
        ("--container=", "at least one character"),
        ("--unit=", "the name of a systemd unit"),
        ("--unit=/system.slice/x.service", "the name of a systemd unit"),
        ("--program=", "at least one character"),
        ("-4 -6", "cannot be used with"),
    ] {
        let error = parse(arguments).expect_err(arguments);
        assert_eq!(error.exit_code(), 2, "{arguments}");
        assert!(error.to_string().contains(words), "{arguments}: {error}");
    }
}
