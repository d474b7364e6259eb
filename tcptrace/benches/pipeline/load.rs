//! Records as they come out of the ring, where connections come and go among many that stay.

use std::collections::VecDeque;

use tcptrace_common::{AF_INET, Task, TransitionFlags, TransitionRecord, Tuple, state, v4_mapped};

/// A record's bytes.
pub(crate) type Event = [u8; size_of::<TransitionRecord>()];

/// A change of state, and whether the task that acts is known.
type Step = (u8, u8, bool);

/// How a server's end of a connection ends: its client closes, then it does.
const CLOSE: [Step; 3] = [
    (state::ESTABLISHED, state::CLOSE_WAIT, false),
    (state::CLOSE_WAIT, state::LAST_ACK, true),
    (state::LAST_ACK, state::CLOSE, false),
];
const OPEN: [Step; 2] = [(state::CLOSE, state::SYN_SENT, true), (state::SYN_SENT, state::ESTABLISHED, false)];

/// What of that reaches a tracer that watches CLOSE_WAIT.
const CLOSE_SEEN: [Step; 1] = [(state::CLOSE_WAIT, state::LAST_ACK, true)];
const OPEN_SEEN: [Step; 1] = [(state::ESTABLISHED, state::CLOSE_WAIT, false)];

/// The sockets that there are, and what is to happen next.
pub(crate) struct Load {
    opening: &'static [Step],
    closing: &'static [Step],
    live: Vec<u64>,
    last_cookie: u64,
    now_ns: u64,
    pending: VecDeque<(u64, Step)>,
    random: u64,
}

impl Load {
    /// Connections: each that ends makes room for a new one.
    pub(crate) fn of_connections() -> Self {
        Self::new(&OPEN, &CLOSE)
    }

    /// Sockets that enter CLOSE_WAIT and leave it.
    pub(crate) fn of_closers() -> Self {
        Self::new(&OPEN_SEEN, &CLOSE_SEEN)
    }

    fn new(opening: &'static [Step], closing: &'static [Step]) -> Self {
        Self {
            opening,
            closing,
            live: Vec::new(),
            last_cookie: 0,
            now_ns: 1_000_000_000_000,
            pending: VecDeque::with_capacity(8),
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// One more socket: its first events.
    pub(crate) fn open(&mut self) -> Vec<Event> {
        self.last_cookie += 1;
        let cookie = self.last_cookie;
        self.live.push(cookie);
        self.opening.iter().map(|step| self.event(cookie, *step)).collect()
    }

    /// One socket fewer, any of them: its last events.
    pub(crate) fn close(&mut self) -> Vec<Event> {
        let at = self.any();
        let cookie = self.live.swap_remove(at);
        self.closing.iter().map(|step| self.event(cookie, *step)).collect()
    }

    /// xorshift: any of the live sockets, so that the tracker's memory is not always in the cache.
    fn any(&mut self) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % self.live.len() as u64).expect("below a length")
    }

    /// The next event: any of the live sockets ends, and a new one takes its place.
    pub(crate) fn next(&mut self) -> Event {
        if self.pending.is_empty() {
            let at = self.any();
            self.last_cookie += 1;
            let ended = std::mem::replace(&mut self.live[at], self.last_cookie);
            self.pending.extend(self.closing.iter().map(|step| (ended, *step)));
            self.pending.extend(self.opening.iter().map(|step| (self.last_cookie, *step)));
        }
        let (cookie, step) = self.pending.pop_front().expect("filled just now");
        self.event(cookie, step)
    }

    fn event(&mut self, cookie: u64, (old_state, new_state, acts): Step) -> Event {
        self.now_ns += 5_000;
        let [.., high, low] = cookie.to_be_bytes();
        let tuple = Tuple {
            local_addr: v4_mapped([10, 0, 0, 5]),
            remote_addr: v4_mapped([10, 9, high, low]),
            local_port: 9666,
            remote_port: 1024 + (cookie % 60_000) as u16,
            family: AF_INET,
            interface: 0,
        };
        let transition = TransitionRecord {
            ktime_ns: self.now_ns,
            cookie,
            netns: 4_026_531_840,
            sk_err: 0,
            tuple,
            old_state,
            new_state,
            flags: if acts {
                TransitionFlags::ACTOR_KNOWN | TransitionFlags::PROCESS_NAMED
            } else {
                TransitionFlags::empty()
            },
            pad: 0,
            task: Task {
                pid: 4242,
                tid: 4310,
                uid: 1000,
                comm: *b"java\0\0\0\0\0\0\0\0\0\0\0\0",
                thread_comm: *b"http-nio-9666-e\0",
            },
        };
        bytemuck::cast(transition)
    }
}
