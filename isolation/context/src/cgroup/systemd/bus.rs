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

/// True for root outside any user namespace, whom the machine's systemd takes orders from.
fn is_host_root() -> bool {
    let map = file::read(Path::new("/proc/self/uid_map")).unwrap_or_default();
    let whole = map.split_whitespace().eq(["0", "0", "4294967295"]);
    rustix::process::geteuid().is_root() && whole
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
    /// Connects to the manager of the machine, through the message bus or, where none runs, directly. A machine with
    /// another init has neither.
    pub(super) fn connect() -> Result<Bus, Error> {
        let places = ["/run/dbus/system_bus_socket", "/run/systemd/private"].map(PathBuf::from);
        if !Path::new("/run/systemd/system").exists() {
            return Err(Error::NoSystemd);
        }
        if !is_host_root() {
            return Err(Error::SystemdNeedsRoot);
        }
        let mut first = None;
        for (place, direct) in places.into_iter().zip([false, true]) {
            match Bus::open(&place, direct) {
                Ok(bus) => return Ok(bus),
                Err(source) => drop(first.get_or_insert(Error::Bus { step: "connect to", source })),
            }
        }
        Err(first.unwrap_or(Error::NoSystemd))
    }

    fn open(place: &Path, direct: bool) -> io::Result<Bus> {
        let stream = UnixStream::connect(place)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut bus = Bus { stream, serial: 0, signals: VecDeque::new() };
        bus.authenticate()?;
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
    fn authenticate(&mut self) -> io::Result<()> {
        let uid = rustix::process::geteuid().as_raw().to_string();
        let hex: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
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
