//! Tests of `values.rs`: what each value accepts, and what it refuses.

use super::*;

#[test]
fn sizes_take_bytes_binary_suffixes_and_no_limit() {
    let table = [
        ("0", Size::Bytes(0)),
        ("4096", Size::Bytes(4096)),
        ("64k", Size::Bytes(64 << 10)),
        ("512M", Size::Bytes(512 << 20)),
        ("1.5g", Size::Bytes(3 << 29)),
        ("2GiB", Size::Bytes(2 << 30)),
        ("1tb", Size::Bytes(1 << 40)),
        ("max", Size::Max),
        ("-1", Size::Max),
    ];
    for (text, size) in table {
        assert_eq!(text.parse(), Ok(size), "{text}");
    }
    for text in ["", "-2", "k", "1x", "1.2.3", "99999999999t", "12 m", "9223372036854775808"] {
        assert_eq!(text.parse::<Size>(), Err(ValueError::Size), "{text}");
    }
    assert_eq!(Size::Max.as_oci(), -1);
}

#[test]
fn cpus_become_a_quota_of_a_tenth_of_a_second() {
    assert_eq!("0.5".parse(), Ok(Cpus { quota: 50_000 }));
    assert_eq!("2".parse(), Ok(Cpus { quota: 200_000 }));
    for text in ["", "0", "0.001", "-1", "nan", "inf", "two"] {
        assert_eq!(text.parse::<Cpus>(), Err(ValueError::Cpus), "{text}");
    }
}

#[test]
fn cpu_lists_are_numbers_and_ascending_ranges() {
    for text in ["0", "0-3", "0-3,7", "1,2,3"] {
        assert_eq!(cpu_list(text).as_deref(), Ok(text));
    }
    for text in ["", ",", "3-1", "a", "0-", "0-3,", "-1"] {
        assert_eq!(cpu_list(text), Err(ValueError::CpuList), "{text}");
    }
}

#[test]
fn durations_are_those_of_go() {
    let table =
        [("5s", 5000), ("1m30s", 90_000), ("250ms", 250), ("1.5h", 5_400_000), ("0", 0), ("2000us", 2)];
    for (text, milliseconds) in table {
        assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
    }
    for text in ["", "5", "s", "5x", "-5s", "5s3", "1e9h", "999999999999999999999h"] {
        assert_eq!(duration(text), Err(ValueError::Duration), "{text}");
    }
    assert_eq!(microseconds("5000"), Ok(5000));
    assert_eq!(microseconds("5ms"), Ok(5000));
}

#[test]
fn signals_are_numbers_or_names_in_any_case() {
    let table = [
        ("9", 9),
        ("0", 0),
        ("KILL", 9),
        ("SIGKILL", 9),
        ("sigterm", 15),
        ("Hup", 1),
        ("CLD", 17),
        ("SIGWINCH", 28),
        ("SIGRTMIN", 34),
        ("rtmin+3", 37),
        ("SIGRTMAX-1", 63),
        ("RTMAX", 64),
    ];
    for (text, number) in table {
        assert_eq!(text.parse(), Ok(Signal(number)), "{text}");
    }
    for text in [
        "",
        "-9",
        "65",
        "SIG",
        "NOSUCH",
        "RTMIN+31",
        "RTMIN-1",
        "RTMAX+1",
        "RTMAX-31",
        "RTMAX-33",
        "RTMAX-64",
        "RTMAX-99",
        "RTMIN++1",
        "SIGSIGKILL",
    ] {
        assert_eq!(text.parse::<Signal>(), Err(ValueError::Signal), "{text}");
    }
}

#[test]
fn a_number_out_of_range_is_never_looked_up_as_a_name() {
    assert_eq!("0:0".parse(), Ok(NumericUser { uid: 0, gid: Some(0) }));
    assert_eq!("1000".parse(), Ok(NumericUser { uid: 1000, gid: None }));
    for text in ["", ":", "1:", ":1", "root", "4294967295", "-1", "+1", "1:2:3"] {
        assert_eq!(text.parse::<NumericUser>(), Err(ValueError::NumericUser), "{text}");
    }
    let group = Some(Account::Id(7));
    assert_eq!("daemon:7".parse(), Ok(User { user: Account::Name("daemon".to_owned()), group }));
    for text in ["", ":", "a:", ":b", "4294967295", "99999999999", "a:b:c"] {
        assert_eq!(text.parse::<User>(), Err(ValueError::User), "{text}");
    }
}

#[test]
fn variables_and_pairs_need_a_name() {
    assert_eq!("A=b=c".parse(), Ok(EnvVar { name: "A".to_owned(), value: Some("b=c".to_owned()) }));
    assert_eq!("A".parse(), Ok(EnvVar { name: "A".to_owned(), value: None }));
    assert_eq!("=x".parse::<EnvVar>(), Err(ValueError::Env));
    assert_eq!("k=".parse(), Ok(KeyValue { key: "k".to_owned(), value: String::new() }));
    for text in ["", "k", "=v"] {
        assert_eq!(text.parse::<KeyValue>(), Err(ValueError::KeyValue), "{text}");
    }
}

#[test]
fn resource_limits_have_known_names_and_ordered_values() {
    let rlimit = |soft, hard| Ok(Rlimit { name: "RLIMIT_NOFILE".to_owned(), soft, hard });
    assert_eq!("nofile=1024".parse(), rlimit(1024, 1024));
    assert_eq!("RLIMIT_NOFILE=1:2".parse(), rlimit(1, 2));
    assert_eq!("nofile=5:unlimited".parse(), rlimit(5, u64::MAX));
    assert_eq!("nofile=-1:5".parse::<Rlimit>(), Err(ValueError::Rlimit));
    assert_eq!("nofile".parse::<Rlimit>(), Err(ValueError::Rlimit));
    assert_eq!("speed=1".parse::<Rlimit>(), Err(ValueError::RlimitName("speed".to_owned())));
}

#[test]
fn capabilities_take_any_usual_spelling() {
    assert_eq!(capability("net_admin").as_deref(), Ok("CAP_NET_ADMIN"));
    assert_eq!(capability("CAP_BPF").as_deref(), Ok("CAP_BPF"));
    assert_eq!(capability("all").as_deref(), Ok("ALL"));
    assert!(capability("CAP_FLY").is_err());
}
