//! Device rules, as a process in the group meets them.

use super::*;

const NULL_ONLY: &str = r#"{"devices":[{"allow":false,"access":"rwm"},
    {"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"},
    {"allow":true,"type":"c","major":1,"minor":8,"access":"r"}]}"#;

fn keeps_device_rules(mut fixture: Fixture) {
    assert!(fixture.succeeds(": < /dev/zero"));
    fixture.apply(NULL_ONLY).unwrap();
    assert!(fixture.succeeds(": < /dev/null"));
    assert!(fixture.succeeds(": < /dev/random"));
    assert!(!fixture.succeeds(": > /dev/random"));
    assert!(!fixture.succeeds(": <> /dev/random"));
    assert!(!fixture.succeeds(": < /dev/zero"));
    let node = std::env::temp_dir().join(format!("vctx-node-{}", std::process::id()));
    let mknod = format!("mknod {0} c 1 5 && rm {0}", node.display());
    assert!(!fixture.succeeds(&mknod));
    // An update, twice: the old rules must be gone and the number of programs stay one.
    for _ in 0..2 {
        let list = serde_json::to_string(&default_devices()).unwrap();
        fixture.apply(&format!(r#"{{"devices":{list}}}"#)).unwrap();
    }
    for (command, allowed) in [
        (": <> /dev/zero", true),
        (": <> /dev/full", true),
        (": < /dev/null", true),
        (": < /dev/kmsg", false),
        (mknod.as_str(), true),
    ] {
        assert_eq!(fixture.succeeds(command), allowed, "{command}");
    }
    fixture.apply(r#"{"devices":[{"allow":true,"access":"rwm"}]}"#).unwrap();
    assert!(fixture.succeeds(": < /dev/kmsg"));
    fixture.apply(NULL_ONLY).unwrap();
    assert!(!fixture.succeeds(": < /dev/zero"));
    assert!(fixture.succeeds(": < /dev/null"));
}

#[test]
fn version_1_keeps_device_rules() {
    let Some(fixture) = Fixture::new("devices") else { return };
    if !fixture.has("devices") {
        return skipped("no devices controller of version 1");
    }
    keeps_device_rules(fixture);
}

#[test]
fn version_2_keeps_device_rules() {
    let Some(fixture) = Fixture::unified("devices-v2") else { return };
    keeps_device_rules(fixture);
}

#[test]
fn version_2_keeps_a_hole_in_a_wider_device_rule() {
    let Some(mut fixture) = Fixture::unified("devices-hole") else { return };
    let json = r#"{"devices":[{"allow":true,"access":"rwm"},{"allow":false,"type":"c","major":1,"access":"w"},
        {"allow":true,"type":"c","major":1,"minor":5,"access":"w"}]}"#;
    fixture.apply(json).unwrap();
    for (command, allowed) in [
        (": < /dev/full", true),
        (": > /dev/full", false),
        (": <> /dev/full", false),
        (": <> /dev/zero", true),
        (": < /dev/kmsg", true),
    ] {
        assert_eq!(fixture.succeeds(command), allowed, "{command}");
    }
}
