//! A story for docs/pipelines.md: sockets that get stuck, cleared, shared and closed well, and
//! what a stream has to say about them after any pipeline.

use crate::{Puppet, Record, Sock, feature, pipeline::Shop, scene::Scene, schema::LISTED, witness};

/// The number of children that hold one stuck socket: more than a record lists.
const CROWD: usize = 80;

/// What several processes did to sockets.
#[derive(Debug)]
pub struct Story {
    /// The namespace, with its client and its server.
    pub scene: Scene,
    /// A socket of the server that is still stuck.
    pub left: [Sock; 2],
    /// A socket of the server that was stuck until it closed it.
    pub closed: Sock,
    /// A process that exited, and its stuck socket.
    pub ended: (u32, Sock),
    /// A stuck socket that a process and its children hold.
    pub crowded: Sock,
    /// The parent of these children.
    pub crowd: Puppet,
    /// Both ends of a connection that has ended: the client's and the server's.
    pub talked: (Sock, Sock),
}

/// The bytes that the client of that connection sent.
pub const SENT: usize = 1_000;
/// The bytes that the client received.
pub const ANSWERED: usize = 500;

impl Story {
    /// Waits for each record by `await_record`; processes are named after `name`.
    pub fn new(name: &str, await_record: impl Fn(&str, &Sock)) -> Self {
        let mut scene = Scene::new();
        scene.client.rename(format!("{name}-client").as_bytes());
        scene.server.rename(format!("{name}-server").as_bytes());
        let [closed, left @ ..] = [scene.leak().socket, scene.leak().socket, scene.leak().socket];

        let mut leak_of = |name: &str, children: usize| {
            let mut puppet = Puppet::new();
            puppet.rename(name.as_bytes());
            let listener = puppet.listen("127.0.0.1:0");
            let client = scene.client.connect(listener.local);
            let socket = puppet.accept(&listener);
            // All are there before it can be stuck.
            (0..children).for_each(|_| _ = puppet.fork());
            scene.client.close(&client);
            puppet.read_to_the_end(&socket);
            (puppet, socket)
        };
        let (other, others) = leak_of(&format!("{name}-other"), 0);
        let (crowd, crowded) = leak_of(&format!("{name}-crowd"), CROWD);

        let talked = scene.connection();
        scene.client.write(&talked.0, SENT);
        scene.server.read(&talked.1, SENT);
        scene.server.write(&talked.1, ANSWERED);
        scene.client.read(&talked.0, ANSWERED);
        scene.client.close(&talked.0);
        scene.server.read_to_the_end(&talked.1);
        scene.server.close(&talked.1);

        [closed, left[0], left[1], others, crowded].iter().for_each(|socket| await_record("stuck", socket));
        scene.server.close(&closed);
        let ended = (other.pid(), others);
        other.exit();
        [closed, others].iter().for_each(|socket| await_record("cleared", socket));
        [talked.0, talked.1, closed, others].iter().for_each(|socket| await_record("life", socket));
        // The other ends of what is left may stay in FIN_WAIT2 for a minute, if the
        // acknowledgement came during close(2).
        [closed, others].iter().for_each(|socket| await_record("life", &other_end(socket)));
        Self { scene, left, closed, ended, crowded, crowd, talked }
    }

    /// Returns the holders of the shared socket that its record has to list, from `ss`. Each
    /// process has one descriptor.
    ///
    /// # Panics
    /// If the socket is gone.
    pub fn listed(&self) -> Vec<(u32, u32)> {
        let mut holders = witness::find(&self.crowded).expect("it is still there").holders;
        assert_eq!(holders.len(), CROWD + 1);
        holders.truncate(LISTED);
        holders
    }

    /// Asserts that records say what happened, whatever they went through.
    ///
    /// # Panics
    /// If they do not.
    pub fn assert_told(&self, records: &[Record]) {
        let (first, last) = (&records[0], &records[records.len() - 1]);
        assert!(first.is("start") && last.is("summary"), "{first:?} … {last:?}");
        let one = |event, socket| {
            let its: Vec<_> = records.iter().filter(|record| record.is_about(event, socket)).collect();
            assert_eq!(its.len(), 1, "{event} of {socket:?}: {its:?}");
            its[0]
        };
        for socket in [&self.left[0], &self.left[1], &self.closed, &self.ended.1] {
            assert_eq!(one("stuck", socket).holders(), [(socket.pid, socket.fd)]);
        }
        let crowded = one("stuck", &self.crowded);
        assert_eq!(crowded.holders(), self.listed());
        assert_eq!(crowded.int("owners_total"), CROWD as u64 + 1);
        for (socket, how) in [(&self.closed, "closed"), (&self.ended.1, exited())] {
            let cleared = one("cleared", socket);
            assert_eq!((cleared.text("how"), &cleared.get("by")["pid"]), (how, &socket.pid.into()));
        }
        for socket in [&self.talked.0, &self.talked.1, &self.closed, &self.ended.1] {
            one("life", socket);
        }
        for (event, total) in [("stuck", "stuck"), ("cleared", "cleared"), ("life", "lives")] {
            let come = records.iter().filter(|record| record.is(event)).count() as u64;
            assert_eq!(last.int(total), come, "records of {event}");
        }
    }
}

/// Returns a socket's other end.
fn other_end(of: &Sock) -> Sock {
    Sock { local: of.remote.expect("connected"), remote: Some(of.local), ..*of }
}

/// Returns the `how` of a socket whose process exited. Without BTF it is not known that the
/// process was exiting.
pub fn exited() -> &'static str {
    if feature::why_not(feature::TP_BTF).is_none() { "exited" } else { "closed" }
}

/// Records a story in the file that the tracer writes to.
///
/// # Panics
/// If the records do not tell the story.
pub fn record(shop: &Shop, name: &str) -> Story {
    let tracer = shop.start("record");
    shop.await_record("the start", |record| record.is("start"));
    let story = Story::new(name, |event, socket| {
        shop.await_record(&format!("{event} of {socket:?}"), |record| record.is_about(event, socket));
    });
    assert!(tracer.stop().success(), "{}", shop.read("record.err"));
    story.assert_told(&shop.records("tcptrace.json"));
    story
}
