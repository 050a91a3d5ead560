//! A connection to systemd: calls of its manager, one after the other, and the signals that come in between.
//!
//! It is small because it must be: the process that clones has one thread, and the D-Bus libraries with a connection of
//! their own either start threads or bring copies of half this project's dependencies. The D-Bus types themselves are
//! marshalled by `zvariant`, which makes no system call.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zvariant::serialized::{Context, Data};
use zvariant::{DynamicType, LE, ObjectPath, Type, Value};

use crate::cgroup::{Error, file};

const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// How long systemd may take for one answer. It is busy for seconds when a machine starts.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest message that is read, in bytes; answers to our calls are below one kilobyte.
const LONGEST: usize = 1 << 20;

// Message types and header fields (D-Bus specification, "Message Format").
const CALL: u8 = 1;
const ANSWER: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const ANSWER_TO: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// Byte order, type, flags, version; length of the body, serial; fields.
type Header<'a> = (u8, u8, u8, u8, u32, u32, Vec<(u8, Value<'a>)>);

/// A connection to systemd's manager.
pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
    /// Signals that came before the answer that was waited for.
    signals: VecDeque<Message>,
}

/// A message that came.
struct Message {
    kind: u8,
    member: String,
    error: String,
    answer_to: u32,
    body: Vec<u8>,
}

/// What systemd says to a call: yes, with a body, or the name and text of its error.
pub(super) type Answer = Result<Body, Refusal>;

/// The body of an answer.
pub(super) struct Body(Vec<u8>);

/// An error of systemd's.
pub(super) struct Refusal {
    pub(super) name: String,
    pub(super) text: String,
}

/// The systemd that takes orders from us: the machine's from root, and from everyone else the user's own. In a user
/// namespace of one, as engines make it, we are who its maps say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manager {
    System,
    User(u32),
}

impl Manager {
    pub(super) fn ours() -> Result<Manager, Error> {
        let map = file::read(Path::new("/proc/self/uid_map"))?;
        match outside(&map, rustix::process::geteuid().as_raw()) {
            Some(0) => Ok(Manager::System),
            Some(uid) => Ok(Manager::User(uid)),
            None => Err(Error::NoSystemd),
        }
    }

    fn uid(self) -> u32 {
        match self {
            Manager::System => 0,
            Manager::User(uid) => uid,
        }
    }

    /// The folder of the group that it manages, below the root of the hierarchy.
    pub(super) fn root(self) -> PathBuf {
        match self {
            Manager::System => PathBuf::new(),
            Manager::User(uid) => format!("user.slice/user-{uid}.slice/user@{uid}.service").into(),
        }
    }

    /// Its message bus, and its own socket.
    fn sockets(self) -> [PathBuf; 2] {
        match self {
            Manager::System => ["/run/dbus/system_bus_socket", "/run/systemd/private"].map(PathBuf::from),
            Manager::User(uid) => {
                let folder = std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty());
                let folder = folder.map_or_else(|| format!("/run/user/{uid}").into(), PathBuf::from);
                [folder.join("bus"), folder.join("systemd/private")]
            }
        }
    }
}

/// What a user id of ours is outside of our user namespace (user_namespaces(7)).
fn outside(map: &str, uid: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        let (Some(Ok(inside)), Some(Ok(outside)), Some(Ok(length))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return None;
        };
        let offset = uid.checked_sub(inside).filter(|offset| *offset < length)?;
        outside.checked_add(offset)
    })
}

/// A call as it goes over the line.
fn message<T>(
    serial: u32,
    (destination, path, interface): (&str, &str, &str),
    member: &str,
    arguments: &T,
) -> zvariant::Result<Vec<u8>>
where
    T: Serialize + DynamicType,
{
    let body = zvariant::to_bytes(Context::new_dbus(LE, 0), arguments)?;
    let fields = vec![
        (PATH, Value::from(ObjectPath::try_from(path)?)),
        (INTERFACE, Value::from(interface)),
        (MEMBER, Value::from(member)),
        (DESTINATION, Value::from(destination)),
    ];
    let header: Header = (b'l', CALL, 0, 1, body.len() as u32, serial, fields);
    let mut message = zvariant::to_bytes(Context::new_dbus(LE, 0), &header)?.to_vec();
    let signature = arguments.signature().to_string_no_parens();
    if !signature.is_empty() {
        // As a value it would be that of one structure; a call has several arguments.
        message.resize(message.len().next_multiple_of(8), 0);
        message.extend([SIGNATURE, 1, b'g', 0, signature.len() as u8]);
        message.extend(signature.bytes().chain([0]));
        let length = message.len() as u32 - 16;
        message[12..16].copy_from_slice(&length.to_le_bytes());
    }
    message.resize(message.len().next_multiple_of(8), 0);
    message.extend_from_slice(&body);
    Ok(message)
}

impl Body {
    fn read<T: for<'de> Deserialize<'de> + Type>(&self) -> io::Result<T> {
        let data = Data::new(&self.0[..], Context::new_dbus(LE, 0));
        data.deserialize().map(|(value, _)| value).map_err(io::Error::other)
    }
}

impl Bus {
    /// Connects to our manager, through the message bus or, where none runs, directly. A machine with another init has
    /// neither, and a user who has not logged in has none.
    pub(super) fn connect() -> Result<Bus, Error> {
        if !Path::new("/run/systemd/system").exists() {
            return Err(Error::NoSystemd);
        }
        let manager = Manager::ours()?;
        let mut last = None;
        for (place, direct) in manager.sockets().into_iter().zip([false, true]) {
            match Bus::open(&place, manager.uid(), direct) {
                Ok(bus) => return Ok(bus),
                Err(source) => last = Some((place, source)),
            }
        }
        match (last, manager) {
            (Some((place, source)), Manager::User(uid)) => Err(Error::NoUserSystemd { uid, place, source }),
            (Some((_, source)), Manager::System) => Err(Error::Bus { step: "connect to", source }),
            (None, _) => Err(Error::NoSystemd),
        }
    }

    fn open(place: &Path, uid: u32, direct: bool) -> io::Result<Bus> {
        let stream = UnixStream::connect(place)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut bus = Bus { stream, serial: 0, signals: VecDeque::new() };
        bus.authenticate(uid)?;
        if !direct {
            let daemon = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus");
            let ended = format!("type='signal',interface='{MANAGER}',member='JobRemoved'");
            let refused = |refusal: Refusal| io::Error::other(refusal.text);
            bus.send_and_wait(daemon, "Hello", &())?.map_err(refused)?;
            bus.send_and_wait(daemon, "AddMatch", &ended)?.map_err(refused)?;
        }
        Ok(bus)
    }

    /// Our user id is vouched for by the kernel (D-Bus specification, "Authentication Protocol").
    fn authenticate(&mut self, uid: u32) -> io::Result<()> {
        let hex: String = uid.to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
        self.stream.write_all(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte)?;
            line.push(byte[0]);
            if line.len() > 512 {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        if !line.starts_with(b"OK ") {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.stream.write_all(b"BEGIN\r\n")
    }

    /// Calls a method of the manager.
    pub(super) fn call<T>(&mut self, method: &str, arguments: &T) -> Result<Answer, Error>
    where
        T: Serialize + DynamicType,
    {
        let manager = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", MANAGER);
        self.send_and_wait(manager, method, arguments).map_err(|source| Error::Bus { step: "call", source })
    }

    /// The path of a job, which is what most methods answer.
    pub(super) fn job(body: &Body) -> Result<String, Error> {
        let path: zvariant::OwnedObjectPath =
            body.read().map_err(|source| Error::Bus { step: "read the answer of", source })?;
        Ok(path.as_str().to_owned())
    }

    /// Waits for the end of a job, and says how it ended: `done`, `failed`, `timeout` and others.
    pub(super) fn job_result(&mut self, job: &str) -> Result<String, Error> {
        let failed = |source| Error::Bus { step: "wait for", source };
        loop {
            let signal = match self.signals.pop_front() {
                Some(signal) => signal,
                None => self.receive().map_err(failed)?,
            };
            if signal.kind == SIGNAL && signal.member == "JobRemoved" {
                let (_, path, _, result): (u32, zvariant::OwnedObjectPath, String, String) =
                    Body(signal.body).read().map_err(failed)?;
                if path.as_str() == job {
                    return Ok(result);
                }
            }
        }
    }

    fn send_and_wait<T>(
        &mut self,
        (destination, path, interface): (&str, &str, &str),
        member: &str,
        arguments: &T,
    ) -> io::Result<Answer>
    where
        T: Serialize + DynamicType,
    {
        self.serial += 1;
        let message = message(self.serial, (destination, path, interface), member, arguments)
            .map_err(io::Error::other)?;
        self.stream.write_all(&message)?;
        loop {
            let message = self.receive()?;
            match message.kind {
                SIGNAL => self.signals.push_back(message),
                ANSWER if message.answer_to == self.serial => return Ok(Ok(Body(message.body))),
                ERROR if message.answer_to == self.serial => {
                    let text = Body(message.body).read().unwrap_or_default();
                    return Ok(Err(Refusal { name: message.error, text }));
                }
                _ => {}
            }
        }
    }

    /// Reads the next message.
    fn receive(&mut self) -> io::Result<Message> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let mut bytes = vec![0; 16];
        self.stream.read_exact(&mut bytes)?;
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let (body, fields) = (number(4) as usize, number(12) as usize);
        if bytes[0] != b'l' || body > LONGEST || fields > LONGEST {
            return Err(invalid());
        }
        let start = (16 + fields).next_multiple_of(8);
        bytes.resize(start + body, 0);
        self.stream.read_exact(&mut bytes[16..])?;
        let body = bytes.split_off(start);
        let data = Data::new(&bytes[..], Context::new_dbus(LE, 0));
        let (header, _): (Header, usize) = data.deserialize().map_err(io::Error::other)?;
        let mut message =
            Message { kind: header.1, member: String::new(), error: String::new(), answer_to: 0, body };
        for (field, value) in header.6 {
            match (field, value) {
                (MEMBER, Value::Str(text)) => message.member = text.as_str().to_owned(),
                (ERROR_NAME, Value::Str(text)) => message.error = text.as_str().to_owned(),
                (ANSWER_TO, Value::U32(serial)) => message.answer_to = serial,
                _ => {}
            }
        }
        Ok(message)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed test may panic")]
mod tests {
    use super::*;

    #[test]
    fn root_of_a_user_namespace_is_the_user_that_its_map_names() {
        assert_eq!(outside("         0          0 4294967295\n", 0), Some(0));
        let engine = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(outside(engine, 0), Some(1000));
        assert_eq!(outside(engine, 8), Some(100_007));
        assert_eq!(outside(engine, 70_000), None);
    }
}
