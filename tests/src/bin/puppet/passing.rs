//! Descriptors that go from process to process (unix(7), SCM_RIGHTS).

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::BorrowedFd,
};

use rustix::net::{
    self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketType,
};
use serde_json::{Value, json};

use crate::{Outcome, Puppet, text};

impl Puppet {
    /// From now on others can send descriptors here.
    pub(crate) fn open_mailbox(&mut self, name: &str) -> Outcome<Value> {
        let mailbox = net::socket(AddressFamily::UNIX, SocketType::DGRAM, None).map_err(text)?;
        net::bind(&mailbox, &address(name)?).map_err(text)?;
        self.mailbox = Some(mailbox);
        Ok(json!({}))
    }

    /// Takes the next one out of the mailbox.
    pub(crate) fn receive(&mut self) -> Outcome<Value> {
        let mailbox = self.mailbox.as_ref().ok_or("no mailbox")?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let (flags, mut byte) = (RecvFlags::CMSG_CLOEXEC, [0]);
        net::recvmsg(mailbox, &mut [IoSliceMut::new(&mut byte)], &mut control, flags).map_err(text)?;
        let received = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        self.keep(received.ok_or("no descriptor came")?)
    }
}

/// Sends a copy of a descriptor.
pub(crate) fn send(fd: BorrowedFd<'_>, to: &str) -> Outcome<Value> {
    let postman = net::socket(AddressFamily::UNIX, SocketType::DGRAM, None).map_err(text)?;
    net::connect(&postman, &address(to)?).map_err(text)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err("no room for a descriptor".to_owned());
    }
    net::sendmsg(&postman, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).map_err(text)?;
    Ok(json!({}))
}

fn address(name: &str) -> Outcome<SocketAddrUnix> {
    SocketAddrUnix::new_abstract_name(name.as_bytes()).map_err(text)
}
