//! The texts of options, and of a registry's challenges: what is read is what is written back, and nothing means more than it says. The first byte
//! chooses the kind.
#![no_main]
// The command's own files, of which this uses the parsing.
#![allow(dead_code)]

#[path = "../../../cli/registry/src/challenge.rs"]
mod challenge;
#[path = "../../../cli/grants.rs"]
mod grants;
#[path = "../../../cli/values.rs"]
mod values;

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use grants::{DeviceSpec, IdMap, IoMax, MountKind, MountSpec, SecurityOpt, Share, TimeOffset};
use libfuzzer_sys::fuzz_target;
use values::{Account, Cpus, EnvVar, KeyValue, NumericUser, Rlimit, Signal, Size, User};
use vctx_context::capability;
use vctx_netns::ports::Publish;
use vctx_netns::{Network, Subnet};
use vctx_runtime::fuzzing::mount_options;
use vctx_storage::image::{Digest, Reference};

fuzz_target!(|data: &[u8]| {
    let Some((&kind, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    match kind % 10 {
        0 => amounts(text),
        1 => accounts(text),
        2 => pairs(text),
        3 => mounts(text),
        4 => options(text),
        5 => capabilities(text),
        6 => grants(text),
        7 => times(text),
        8 => images(text),
        _ => networks(text),
    }
});

fn amounts(text: &str) {
    if let Ok(Size::Bytes(bytes)) = text.parse::<Size>() {
        assert!(bytes <= i64::MAX as u64);
        assert_eq!(bytes.to_string().parse(), Ok(Size::Bytes(bytes)));
    }
    if let Ok(cpus) = text.parse::<Cpus>() {
        assert!((1000..=100_000_000_000).contains(&cpus.quota), "{text}: {}", cpus.quota);
    }
    if let Ok(list) = values::cpu_list(text) {
        assert!(list.bytes().all(|byte| byte.is_ascii_digit() || b"+-,".contains(&byte)), "{list:?}");
    }
    if let Ok(Signal(number)) = text.parse::<Signal>() {
        assert!((0..=64).contains(&number), "{text}: {number}");
        assert_eq!(number.to_string().parse(), Ok(Signal(number)));
    }
    if let Ok(limit) = text.parse::<Rlimit>() {
        assert!(limit.soft <= limit.hard);
        assert_eq!(format!("{}={}:{}", limit.name, limit.soft, limit.hard).parse(), Ok(limit));
    }
}

/// Root is who was called root by the number 0, and nobody else.
fn accounts(text: &str) {
    let says_0 = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte == b'0');
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    if let Ok(numeric) = text.parse::<NumericUser>() {
        assert_eq!(numeric.uid == 0, says_0(user), "{text}");
        assert_eq!(numeric.gid.map(|gid| gid == 0), group.map(says_0), "{text}");
        assert!(numeric.uid != u32::MAX && numeric.gid != Some(u32::MAX), "{text}");
    }
    if let Ok(either) = text.parse::<User>() {
        for (account, text) in [(Some(either.user), Some(user)), (either.group, group)] {
            match account {
                Some(Account::Id(id)) => assert!(id != u32::MAX && (id == 0) == says_0(text.unwrap())),
                Some(Account::Name(name)) => {
                    assert_eq!(Some(&*name), text);
                    assert!(!name.bytes().all(|byte| byte.is_ascii_digit()), "{name}");
                }
                None => assert_eq!(text, None),
            }
        }
    }
}

fn pairs(text: &str) {
    if let Ok(pair) = text.parse::<KeyValue>() {
        assert!(!pair.key.is_empty() && !pair.key.contains('='));
        assert_eq!(format!("{}={}", pair.key, pair.value), text);
    }
    if let Ok(variable) = text.parse::<EnvVar>() {
        assert!(!variable.name.is_empty() && !variable.name.contains('='));
        let whole =
            variable.value.map_or(variable.name.clone(), |value| format!("{}={value}", variable.name));
        assert_eq!(whole, text);
    }
    if let Ok(network) = text.parse::<Network>() {
        match network {
            Network::Namespace(path) => assert!(path.is_absolute()),
            Network::Context(id) => assert!(!id.is_empty()),
            // It becomes the name of a file.
            Network::Named(name) => assert!(!name.is_empty() && !name.contains('/') && !name.starts_with('.')),
            Network::Cni(name) => assert!(!name.is_empty() && !name.contains('/') && !name.starts_with('.')),
            Network::None | Network::Host | Network::Shared | Network::Program(_) => {}
        }
    }
    let _ = text.parse::<SecurityOpt>();
}

fn mounts(text: &str) {
    for read in [grants::mount(text), grants::volume(text), grants::tmpfs(text)].into_iter().flatten() {
        assert!(read.target.is_absolute(), "{text}");
        assert!(read.options.iter().all(|option| !option.is_empty()), "{text}");
    }
    // As `--volume` has it: written back and read again it is the same.
    if let Ok(read) = grants::volume(text) {
        assert_eq!(grants::volume(&volume(&read)).unwrap(), read);
    }
    if let Ok(share) = text.parse::<Share>() {
        let end = if share.read_only { ":ro" } else { ":rw" };
        assert_eq!(format!("{}{end}", share.path.display()).parse(), Ok(share));
    }
}

fn volume(mount: &MountSpec) -> String {
    let target = mount.target.display();
    let mut text = match &mount.kind {
        MountKind::Bind { source } => format!("{}:{target}", source.display()),
        MountKind::Volume { name: Some(name) } => format!("{name}:{target}"),
        MountKind::Volume { name: None } => target.to_string(),
        MountKind::Tmpfs => panic!("a volume is no memory"),
    };
    if !mount.options.is_empty() {
        text.push_str(&format!(":{}", mount.options.join(",")));
    }
    text
}

/// Mount options say the same in one text and in several, said once and said twice; of two that contradict each other the
/// last holds.
fn options(text: &str) {
    let texts: Vec<&str> = text.split('\n').collect();
    let read = mount_options(&texts);
    let twice = mount_options(&[&texts[..], &texts[..]].concat());
    assert_eq!((&twice.0, &twice.2), (&read.0, &read.2), "{texts:?}");
    const ATIME: u64 = 0x70;
    let [set, clear, set_below, clear_below] = read.0;
    for (set, clear) in [(set, clear), (set_below, clear_below)] {
        assert_eq!(set & clear & !ATIME, 0, "set and cleared: {texts:?}");
        // The kinds of atime are one field: no two of them at once, and never set without clearing the rest.
        assert!([0, 0x10, 0x20].contains(&(set & ATIME)), "{texts:?}");
        assert!(set & ATIME == 0 || clear & ATIME == ATIME, "{texts:?}");
    }
    if !text.contains('"') {
        let apart: Vec<&str> = texts.iter().flat_map(|text| text.split(',')).collect();
        assert_eq!(mount_options(&apart), read, "{texts:?}");
    }
}

fn capabilities(text: &str) {
    let bit = capability::bit(text);
    if let Some(bit) = bit {
        assert_eq!(bit.count_ones(), 1);
        let names = capability::names(bit);
        assert_eq!(names.len(), 1);
        assert_eq!(capability::bit(&names[0]), Some(bit));
    }
    match values::capability(text) {
        Ok(name) if name == "ALL" => assert_eq!(bit, None),
        Ok(name) => assert_eq!(capability::bit(&name), bit, "{text}"),
        Err(_) => assert_eq!(bit, None, "{text}"),
    }
}

fn grants(text: &str) {
    if let Ok(device) = text.parse::<DeviceSpec>() {
        assert!(device.source.is_absolute() && device.target.is_absolute() && !device.access.is_empty());
        let whole = format!("{}:{}:{}", device.source.display(), device.target.display(), device.access);
        assert_eq!(whole.parse(), Ok(device));
    }
    if let Ok(map) = text.parse::<IdMap>() {
        assert!(map.size > 0 && (map.users || map.groups));
        assert!(
            map.container.checked_add(map.size - 1).is_some() && map.host.checked_add(map.size - 1).is_some()
        );
    }
    if let Ok(limits) = text.parse::<IoMax>() {
        if let grants::BlockDevice::Node(path) = &limits.device {
            assert!(Path::new(path).is_absolute());
        }
        let all = [limits.read_bytes, limits.write_bytes, limits.read_operations, limits.write_operations];
        assert!(all.iter().any(Option::is_some), "{text}");
    }
}

fn times(text: &str) {
    if let Ok(length) = values::duration(text) {
        let again = format!("{}s{}ns", length.as_secs(), length.subsec_nanos());
        // Numbers are read as floating point, which is exact up to 2^53.
        if length < Duration::from_secs(1 << 52) {
            assert_eq!(values::duration(&again), Ok(length), "{text}");
        }
        assert!(values::microseconds(text).is_ok() || length.as_micros() > u64::MAX.into(), "{text}");
    }
    if let Ok(offset) = text.parse::<TimeOffset>() {
        assert!(offset.nanoseconds < 1_000_000_000, "{text}");
        assert!(offset.seconds >= 0 || text.contains('-'), "{text}");
    }
}

/// A name of an image becomes parts of paths and of a registry's URL.
fn images(text: &str) {
    if let Ok(reference) = text.parse::<Reference>() {
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        assert!(reference.repository.split('/').all(|part| !part.is_empty() && plain(part) && part != ".."));
        assert!(!reference.registry.is_empty() && !reference.registry.contains(['/', '@', '?', '#', ' ']), "{text}");
        assert!(reference.tag.as_deref().is_none_or(|tag| plain(tag) && !tag.starts_with(['.', '-'])), "{text}");
        assert!(reference.tag.is_some() || reference.digest.is_some());
        assert_eq!(reference.to_string().parse().as_ref(), Ok(&reference), "{text}");
        assert_eq!(reference.familiar().parse().as_ref(), Ok(&reference), "{text}");
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    match challenge::parse(text) {
        // Whoever may be sent the password is in the text.
        Some(challenge::Challenge::Bearer { realm, service, scope }) => {
            for part in [Some(realm), service, scope].into_iter().flatten() {
                assert!(text.contains(&part) && !part.contains('"'), "{text}: {part}");
            }
        }
        Some(challenge::Challenge::Basic) => assert!(text.to_ascii_lowercase().contains("basic")),
        None => {}
    }
}

fn networks(text: &str) {
    if let Ok(subnet) = text.parse::<Subnet>() {
        assert_eq!(subnet.to_string().parse(), Ok(subnet), "{text}");
        for number in [1, 2, subnet.last()].into_iter().filter(|number| (1..=subnet.last()).contains(number)) {
            let address: IpAddr = subnet.nth(number);
            assert_eq!(address.is_ipv4(), subnet.is_v4());
            assert_eq!(subnet.number_of(address), Some(number), "{text}: {address}");
            assert_eq!(Subnet::around(address, subnet.prefix()), Some(subnet), "{text}: {address}");
        }
        assert!(subnet.overlaps(&subnet));
    }
    if let Ok(publish) = text.parse::<Publish>() {
        assert!(publish.host > 0 && publish.guest > 0 && publish.count > 0, "{text}");
        for first in [publish.host, publish.guest] {
            assert!(first.checked_add(publish.count - 1).is_some(), "{text}");
        }
        assert_eq!(publish.to_string().parse().as_ref(), Ok(&publish), "{text}");
    }
}
