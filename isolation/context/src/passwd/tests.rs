//! The table of attacks on `--user`, and files that are too large.
#![allow(clippy::unwrap_used)]

use std::io::{self, BufReader, Read};

use super::{User, resolve_user};

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh
# comment
broken
1000:x:0:0:a trap:/root:/bin/sh
-1:x:0:0:a trap:/root:/bin/sh
4294967296:x:0:0:a trap:/root:/bin/sh
web:x:33:34:web:/srv/www:/bin/sh
web:x:0:0:a second one:/root:/bin/sh
wraps:x:4294967296:0::/:/bin/sh
minus:x:-1:0::/:/bin/sh
plus:x:+0:0::/:/bin/sh
nobodys:x:4294967295:0::/:/bin/sh
short:x:5
homeless:x:7:8:::
same:x:33:99::/same:/bin/sh
";
const GROUP: &str = "root:x:0:
1000:x:0:web
staff:x:50:web,other
audio:x:29:other,web
again:x:50:web
webs:x:51:webster
wraps:x:4294967296:web
nogid:x
";

fn resolve(spec: &str) -> Result<User, String> {
    resolve_user(spec, PASSWD.as_bytes(), GROUP.as_bytes()).map_err(|error| error.to_string())
}

#[test]
fn each_form_gives_the_user_that_it_says() {
    for (spec, uid, gid, groups, home) in [
        ("0", 0, 0, vec![], "/root"),
        ("root", 0, 0, vec![], "/root"),
        ("web", 33, 34, vec![0, 50, 29], "/srv/www"),
        ("33", 33, 34, vec![0, 50, 29], "/srv/www"),
        ("web:staff", 33, 50, vec![], "/srv/www"),
        ("web:77", 33, 77, vec![], "/srv/www"),
        ("1", 1, 0, vec![], "/"),
        ("1:1", 1, 1, vec![], "/"),
        ("1:staff", 1, 50, vec![], "/"),
        ("007", 7, 8, vec![], "/"),
        ("homeless", 7, 8, vec![], "/"),
        ("4294967294:4294967294", 4_294_967_294, 4_294_967_294, vec![], "/"),
    ] {
        let expected = User { uid, gid, groups, home: home.into() };
        assert_eq!(resolve(spec), Ok(expected), "{spec}");
    }
}

#[test]
fn a_user_named_like_a_number_never_becomes_root() {
    assert_eq!(resolve("1000").unwrap(), User { uid: 1000, gid: 0, groups: vec![], home: "/".into() });
    assert_eq!(resolve("1000:1000").unwrap().gid, 1000, "and neither does the group");
    for spec in [
        "-1",
        "+0",
        "-0",
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "1:-1",
        "1:4294967296",
        "root:+0",
    ] {
        let message = resolve(spec).expect_err(spec);
        assert!(message.contains("from 0 to 4294967294"), "{spec}: {message}");
    }
}

#[test]
fn what_names_nobody_is_refused_by_name() {
    for (spec, expected) in [
        ("", "write a name or a number"),
        (":", "write a name or a number"),
        (":staff", "write a name or a number"),
        (":0", "write a name or a number"),
        ("web:", "write a name or a number"),
        ("web:staff:x", "write a name or a number"),
        ("nosuch", "\"nosuch\" is not in the context's /etc/passwd"),
        ("web:nosuch", "\"nosuch\" is not in the context's /etc/group"),
        ("ro", "is not in"),
        (" root", "is not in"),
        ("root\n", "\"root\\n\" is not in"),
        ("0x0", "is not in"),
        ("wraps", "\"wraps\" in the context's /etc/passwd is malformed"),
        ("minus", "is malformed"),
        ("plus", "is malformed"),
        ("nobodys", "is malformed"),
        ("short", "is malformed"),
        ("web:wraps", "\"wraps\" in the context's /etc/group is malformed"),
        ("web:nogid", "is malformed"),
    ] {
        let message = resolve(spec).expect_err(spec);
        assert!(message.contains(expected) && !message.contains('\n'), "{spec}: {message}");
    }
}

/// A gibibyte of one byte, which counts what is read of it.
struct Gibibyte<'a>(io::Take<io::Repeat>, &'a std::cell::Cell<usize>);

impl Read for Gibibyte<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(buffer)?;
        self.1.set(self.1.get() + read);
        Ok(read)
    }
}

#[test]
fn of_a_file_of_a_gibibyte_only_the_beginning_is_read() {
    for byte in [b'\n', b'x', b':', 0] {
        let count = std::cell::Cell::new(0);
        let file = || BufReader::new(Gibibyte(io::repeat(byte).take(1 << 30), &count));
        for spec in ["web", "33"] {
            let message = resolve_user(spec, file(), io::empty()).unwrap_err().to_string();
            assert!(message.contains("/etc/passwd is too large"), "{message}");
            let message = resolve_user(spec, PASSWD.as_bytes(), file()).unwrap_err().to_string();
            assert!(message.contains("/etc/group is too large"), "{message}");
        }
        assert!(count.get() < 4 * (5 << 20), "{}", count.get());
    }
}

#[test]
fn large_but_real_files_are_read_to_their_end() {
    let passwd: String = (0..50_000).map(|n| format!("user{n}:x:{n}:{n}::/home/user{n}:/bin/sh\n")).collect();
    let members: Vec<String> = (0..20_000).map(|n| format!("user{n}")).collect();
    let group = format!("all:x:5:{}", members.join(","));
    let user = resolve_user("user19999", passwd.as_bytes(), group.as_bytes()).unwrap();
    assert_eq!((user.uid, user.groups), (19_999, vec![5]), "also without a newline at the end");
}

#[test]
fn more_groups_than_the_kernel_takes_are_refused() {
    let group: String = (0..70_000).map(|n| format!("g{n}:x:{n}:web\n")).collect();
    let message = resolve_user("web", PASSWD.as_bytes(), group.as_bytes()).unwrap_err().to_string();
    assert!(message.contains("more groups"), "{message}");
}
