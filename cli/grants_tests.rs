//! Tests of `grants.rs`.

use super::*;

#[test]
fn shares_are_writable_unless_they_say_ro() {
    let share = |path: &str, read_only| Ok(Share { path: PathBuf::from(path), read_only });
    assert_eq!("/data".parse(), share("/data", false));
    assert_eq!("/data:ro".parse(), share("/data", true));
    assert_eq!(".:rw".parse(), share(".", false));
    assert_eq!(":ro".parse::<Share>(), Err(ValueError::Share));
}

#[test]
fn the_three_spellings_of_a_mount_agree() {
    let bind = MountSpec {
        kind: MountKind::Bind { source: PathBuf::from("/a") },
        target: PathBuf::from("/b"),
        options: vec!["ro".to_owned(), "nosuid".to_owned()],
    };
    assert_eq!(mount("type=bind,src=/a,dst=/b,readonly,nosuid").as_ref(), Ok(&bind));
    assert_eq!(volume("/a:/b:ro,nosuid").as_ref(), Ok(&bind));
    let memory = MountSpec {
        kind: MountKind::Tmpfs,
        target: PathBuf::from("/t"),
        options: vec!["size=1m".to_owned()],
    };
    assert_eq!(mount("type=tmpfs,target=/t,tmpfs-size=1m").as_ref(), Ok(&memory));
    assert_eq!(tmpfs("/t:size=1m").as_ref(), Ok(&memory));
}

#[test]
fn a_source_that_is_no_path_is_the_name_of_a_volume() {
    let named = |name: Option<&str>, options: &[&str]| MountSpec {
        kind: MountKind::Volume { name: name.map(str::to_owned) },
        target: PathBuf::from("/v"),
        options: options.iter().map(|&option| option.to_owned()).collect(),
    };
    assert_eq!(volume("data:/v"), Ok(named(Some("data"), &[])));
    assert_eq!(volume("data:/v:ro,nocopy"), Ok(named(Some("data"), &["ro", "nocopy"])));
    assert_eq!(volume("/v"), Ok(named(None, &[])));
    assert_eq!(volume("/v:ro"), Ok(named(None, &["ro"])));
    assert_eq!(mount("type=volume,source=data,target=/v,ro"), Ok(named(Some("data"), &["ro"])));
    assert_eq!(mount("type=volume,target=/v,volume-nocopy"), Ok(named(None, &["nocopy"])));
    for path in ["./data:/v", "/data:/v", "../data:/v", ".:/v"] {
        assert!(matches!(volume(path).unwrap().kind, MountKind::Bind { .. }), "{path}");
    }
}

#[test]
fn a_mount_without_its_parts_is_refused() {
    for text in
        ["", "type=bind", "type=bind,target=/b", "type=bind,src=/a,target=b", "type=zfs,src=a,target=/b"]
    {
        assert!(matches!(mount(text), Err(ValueError::Mount(_))), "{text}");
    }
    assert!(mount("type=tmpfs,src=/a,target=/b").is_err());
    assert!(mount("type=tmpfs,target=/b,,").is_err());
    for text in ["", "/a:b", ":/b", "/a:/b:", "a", "name:b", "./a:b"] {
        assert_eq!(volume(text), Err(ValueError::Volume), "{text}");
    }
    for text in ["a/b:/c", "-a:/c", "é:/c"] {
        assert_eq!(volume(text), Err(ValueError::VolumeName), "{text}");
    }
    for text in ["", "t", "/t:"] {
        assert_eq!(tmpfs(text), Err(ValueError::Tmpfs), "{text}");
    }
}

#[test]
fn devices_are_one_to_three_fields() {
    let device = |source: &str, target: &str, access: &str| {
        Ok(DeviceSpec { source: source.into(), target: target.into(), access: access.to_owned() })
    };
    assert_eq!("/dev/fuse".parse(), device("/dev/fuse", "/dev/fuse", "rwm"));
    assert_eq!("/dev/fuse:r".parse(), device("/dev/fuse", "/dev/fuse", "r"));
    assert_eq!("/dev/a:/dev/b:rw".parse(), device("/dev/a", "/dev/b", "rw"));
    for text in ["", "fuse", "/dev/a:b", "/dev/a:/dev/b:x", "/dev/a:/dev/b:"] {
        assert_eq!(text.parse::<DeviceSpec>(), Err(ValueError::Device), "{text}");
    }
}

#[test]
fn id_ranges_do_not_wrap() {
    let map = |users, groups| Ok(IdMap { users, groups, container: 0, host: 100_000, size: 65536 });
    assert_eq!("0:100000:65536".parse(), map(true, true));
    assert_eq!("u:0:100000:65536".parse(), map(true, false));
    assert_eq!("g:0:100000:65536".parse(), map(false, true));
    for text in ["", "0:1", "0:1:0", "x:0:1:2", "4294967295:0:2", "0:4294967290:100", "é:0:1:1"] {
        assert_eq!(text.parse::<IdMap>(), Err(ValueError::IdMap), "{text}");
    }
}

#[test]
fn clock_offsets_have_nanoseconds_that_are_never_negative() {
    let offset = |seconds, nanoseconds| Ok(TimeOffset { clock: Clock::Boottime, seconds, nanoseconds });
    assert_eq!("boottime=3600".parse(), offset(3600, 0));
    assert_eq!("boottime=-1h".parse(), offset(-3600, 0));
    assert_eq!("boottime=-1250ms".parse(), offset(-2, 750_000_000));
    for text in ["", "boottime", "realtime=1", "monotonic=", "monotonic=x"] {
        assert_eq!(text.parse::<TimeOffset>(), Err(ValueError::TimeOffset), "{text}");
    }
}

#[test]
fn security_options_take_both_separators() {
    assert_eq!("seccomp=unconfined".parse(), Ok(SecurityOpt::Seccomp(Seccomp::Unconfined)));
    assert_eq!("seccomp=/p.json".parse(), Ok(SecurityOpt::Seccomp(Seccomp::File("/p.json".into()))));
    assert_eq!("no-new-privileges".parse(), Ok(SecurityOpt::NoNewPrivileges(true)));
    assert_eq!("no-new-privileges:false".parse(), Ok(SecurityOpt::NoNewPrivileges(false)));
    assert_eq!("label=disable".parse(), Ok(SecurityOpt::Label("disable".to_owned())));
    for text in ["", "seccomp", "seccomp=", "no-new-privileges=maybe", "mask=/x", "apparmor="] {
        assert_eq!(text.parse::<SecurityOpt>(), Err(ValueError::SecurityOpt), "{text}");
    }
}

#[test]
fn io_ceilings_name_a_device_and_a_limit() {
    let io: IoMax = "8:0:rbps=10m,wiops=500".parse().unwrap();
    assert_eq!(io.device, BlockDevice::Numbers { major: 8, minor: 0 });
    assert_eq!((io.read_bytes, io.write_operations), (Some(10 << 20), Some(500)));
    assert!("/dev/vda:wbps=1".parse::<IoMax>().is_ok());
    for text in ["", "/dev/vda", "/dev/vda:", "vda:rbps=1", "/dev/vda:speed=1", "/dev/vda:rbps=max"] {
        assert_eq!(text.parse::<IoMax>(), Err(ValueError::IoMax), "{text}");
    }
}
