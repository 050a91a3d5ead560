//! `--user` with the guest's passwd and group files: who is not root never becomes it, unless a file or the number says
//! so. The input is the three of them, with zero bytes between.
#![no_main]

use std::io::BufReader;

use libfuzzer_sys::fuzz_target;
use vctx_context::passwd::resolve_user;
use vctx_fuzz::parts;

fuzz_target!(|data: &[u8]| {
    let [spec, passwd, group] = parts(data);
    // The guest's own value of HOME, as the child looks it up.
    let mut home = [0; 64];
    for line in passwd.split(|&byte| byte == b'\n') {
        if vctx_child::fuzzing::copy_home(line, 1000, &mut home) {
            let fields: Vec<&[u8]> = line.split(|&byte| byte == b':').collect();
            let length = home.iter().position(|&byte| byte == 0).expect("no end");
            assert_eq!((zero_or(fields[2]), &home[..length]), (Some(1000), fields[5]));
        }
    }
    let Ok(spec) = std::str::from_utf8(spec) else { return };
    // Small buffers let lines be cut anywhere.
    let read = |bytes| BufReader::with_capacity(16, bytes);
    let Ok(user) = resolve_user(spec, read(passwd), read(group)) else { return };
    let (name, wanted) = spec.split_once(':').map_or((spec, None), |(name, group)| (name, Some(group)));
    assert!(user.uid != u32::MAX && user.gid != u32::MAX && !user.groups.contains(&u32::MAX), "-1");
    assert!(!user.home.as_os_str().as_encoded_bytes().contains(&0));
    let entries = || passwd.split(|&byte| byte == b'\n').map(fields);
    match numeric(name) {
        // A number is that number, whatever the guest has written.
        Some(number) => assert_eq!(Some(user.uid), number, "{spec:?}"),
        None => assert!(
            entries().any(|entry| entry[0] == name.as_bytes() && zero_or(entry[2]) == Some(user.uid)),
            "no entry makes {spec:?} the user {}",
            user.uid
        ),
    }
    let named = |file: &[u8], name: &str, at: usize, id| {
        let mut lines = file.split(|&byte| byte == b'\n').map(fields);
        lines.any(|entry| entry[0] == name.as_bytes() && zero_or(entry[at]) == Some(id))
    };
    match wanted.map(|wanted| (wanted, numeric(wanted))) {
        Some((_, Some(number))) => assert_eq!(Some(user.gid), number),
        Some((wanted, None)) => {
            assert!(named(group, wanted, 2, user.gid), "no group {wanted:?} is {}", user.gid)
        }
        // Without an entry of his own a number has the group 0, as for every engine.
        None => assert!(
            entries().any(|entry| zero_or(entry[2]) == Some(user.uid) && zero_or(entry[3]) == Some(user.gid))
                || (user.gid == 0 && numeric(name).is_some()),
            "{spec:?} has the group {}",
            user.gid
        ),
    }
    assert!(wanted.is_none() || user.groups.is_empty());
    for gid in &user.groups {
        let mut lines = group.split(|&byte| byte == b'\n').map(fields);
        assert!(lines.any(|entry| zero_or(entry[2]) == Some(*gid)), "no line gives the group {gid}");
    }
});

/// Looks like a number: then what it is, where an id can be that.
fn numeric(text: &str) -> Option<Option<u32>> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let all = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| if text.len() == digits.len() { zero_or(text.as_bytes()) } else { None })
}

/// An id, read without anything that could wrap around.
fn zero_or(text: &[u8]) -> Option<u32> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let significant = text.iter().position(|&byte| byte != b'0').unwrap_or(text.len());
    let number =
        text[significant..].iter().take(11).fold(0_u64, |all, digit| all * 10 + u64::from(digit - b'0'));
    u32::try_from(number).ok().filter(|&id| id != u32::MAX)
}

/// The fields of a line, with empty ones where there are fewer than seven.
fn fields(line: &[u8]) -> Vec<&[u8]> {
    let mut fields: Vec<&[u8]> = line.split(|&byte| byte == b':').collect();
    fields.resize(fields.len().max(7), b"");
    fields
}
