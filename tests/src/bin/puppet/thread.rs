//! Commands that are obeyed in threads, which stay until the process ends.

use std::{
    io,
    os::fd::AsFd as _,
    sync::mpsc::{Sender, channel},
    thread,
};

use rustix::thread::gettid;
use serde_json::{Value, json};

use crate::{Outcome, Puppet, describe, net, text};

impl Puppet {
    /// Obeys a command in a new thread of that name. The answer has the thread's id too.
    pub(crate) fn in_thread(&mut self, name: &str, command: &str) -> Outcome<Value> {
        let mut puppet = std::mem::take(self);
        let command = command.to_owned();
        let (puppet, answer) = stay(name, move |done| {
            let answer = puppet.obey(&command);
            done.send((puppet, with_tid(answer))).map_err(text)
        })?;
        *self = puppet;
        answer
    }

    /// Accepts in a thread that has a table of descriptors of its own (unshare(2), `CLONE_FILES`):
    /// no other thread has the new one.
    pub(crate) fn accept_apart(&mut self, fd: &str) -> Outcome<Value> {
        let mut puppet = std::mem::take(self);
        let fd = fd.to_owned();
        let (puppet, answer) = stay("apart", move |done| {
            let accept = |puppet: &mut Self| {
                let listener = puppet.socket(&fd)?;
                // SAFETY: unshare(2) with this flag gives this thread a copy of the table; what
                // others open and close from now on concerns it no longer, and it opens but what
                // it keeps.
                if unsafe { libc::unshare(libc::CLONE_FILES) } != 0 {
                    return Err(text(io::Error::last_os_error()));
                }
                let server = net::accept(listener).map_err(text)?;
                let answer = describe(server.as_fd());
                // It is in the table of this thread, which stays.
                std::mem::forget(server);
                answer
            };
            let answer = accept(&mut puppet);
            done.send((puppet, with_tid(answer))).map_err(text)
        })?;
        *self = puppet;
        answer
    }
}

/// Ends this thread; a new one serves what comes on stdin. The process goes on without its first
/// thread.
pub(crate) fn exit_and_let_another_serve(puppet: Puppet) -> ! {
    let body = move || {
        println!("{}", json!({}));
        crate::serve(puppet);
        std::process::exit(0);
    };
    thread::Builder::new().spawn(body).expect("a thread");
    // SAFETY: exit(2) ends this thread and no other; nothing of its stack is used by others.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!("this thread has exited")
}

/// Two threads that use all the CPU time that they can get: one may have to share a CPU.
pub(crate) fn spin() -> Outcome<Value> {
    for _ in 0..2 {
        thread::Builder::new()
            .spawn(|| {
                loop {
                    std::hint::spin_loop();
                }
            })
            .map_err(text)?;
    }
    Ok(json!({}))
}

fn with_tid(answer: Outcome<Value>) -> Outcome<Value> {
    let mut answer = answer?;
    answer["tid"] = json!(gettid().as_raw_nonzero());
    Ok(answer)
}

/// Has a new thread do something and stay after it has sent what it has to say.
fn stay<T: Send + 'static>(
    name: &str,
    work: impl FnOnce(Sender<T>) -> Outcome<()> + Send + 'static,
) -> Outcome<T> {
    let (sender, receiver) = channel();
    let body = move || {
        let _nobody_waits = work(sender);
        loop {
            thread::park();
        }
    };
    thread::Builder::new().name(name.to_owned()).spawn(body).map_err(text)?;
    receiver.recv().map_err(text)
}
