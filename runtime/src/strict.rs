//! JSON read as the specification has it: an object is written as an object, and has the fields that are REQUIRED.
//!
//! serde reads a list as the fields of an object in their order, and the types of oci-spec make up a zero for many a field
//! that is missing, which for `user.uid` is root. [`Strict`] stands between the two and refuses both, wherever they occur.

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// The fields that the specification requires and the package does not, by the package's name of the object.
const REQUIRED: [(&str, &[&str]); 12] = [
    ("Box", &["height", "width"]),
    ("LinuxDevice", &["path"]),
    ("LinuxDeviceCgroup", &["allow"]),
    ("LinuxHugepageLimit", &["pageSize", "limit"]),
    ("LinuxIdMapping", &["containerID", "hostID", "size"]),
    ("LinuxIOPriority", &["class", "priority"]),
    ("LinuxInterfacePriority", &["name", "priority"]),
    ("LinuxThrottleDevice", &["major", "minor", "rate"]),
    ("LinuxWeightDevice", &["major", "minor"]),
    ("PosixRlimit", &["soft", "hard"]),
    ("Root", &["path"]),
    ("User", &["uid", "gid"]),
];

/// Reads a text.
///
/// # Errors
///
/// It is no JSON, or not of this type.
pub(crate) fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = T::deserialize(Strict(&mut reader))?;
    reader.end()?;
    Ok(value)
}

/// As [`from_slice`]; an error comes with the path of its field.
pub(crate) fn locate<T: DeserializeOwned>(
    bytes: &[u8],
) -> Option<serde_path_to_error::Error<serde_json::Error>> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize::<_, T>(Strict(&mut reader)).err()
}

/// Reads a value; an error comes with the path of its field.
pub(crate) fn from_value<T: DeserializeOwned>(
    value: Value,
) -> Result<T, serde_path_to_error::Error<serde_json::Error>> {
    serde_path_to_error::deserialize(Strict(value))
}

/// Wraps whatever leads to an object: a deserializer, the seed of a value, the visitor and the elements of a list.
struct Strict<T>(T);

macro_rules! forward {
    ($($method:ident),*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> { self.0.$method(visitor) }
    )* };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Strict<D> {
    type Error = D::Error;

    // No object lies in these. A type that asks for anything at all has no fields to be mistaken.
    forward!(
        deserialize_any,
        deserialize_bool,
        deserialize_i8,
        deserialize_i16,
        deserialize_i32,
        deserialize_i64,
        deserialize_i128,
        deserialize_u8,
        deserialize_u16,
        deserialize_u32,
        deserialize_u64,
        deserialize_u128,
        deserialize_f32,
        deserialize_f64,
        deserialize_char,
        deserialize_str,
        deserialize_string,
        deserialize_bytes,
        deserialize_byte_buf,
        deserialize_unit,
        deserialize_identifier,
        deserialize_ignored_any
    );

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_option(Strict(visitor))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_seq(Strict(visitor))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(Strict(visitor))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_tuple(length, Strict(visitor))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_tuple_struct(name, length, Strict(visitor))
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_unit_struct(name, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_newtype_struct(name, Strict(visitor))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let required =
            REQUIRED.iter().find(|(object, _)| *object == name).map_or(&[][..], |(_, fields)| fields);
        self.0.deserialize_struct(name, fields, Object { visitor, required })
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Strict<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.expecting(formatter)
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(Strict(deserializer))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.0.visit_newtype_struct(Strict(deserializer))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<V::Value, A::Error> {
        self.0.visit_seq(Strict(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Fields { map, required: &[], seen: 0 })
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Strict<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Strict(deserializer))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(Strict(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

/// Takes an object, and with it nothing else: what is not forwarded is an error that names the type.
struct Object<V> {
    visitor: V,
    required: &'static [&'static str],
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Object<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.visitor.expecting(formatter)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Fields { map, required: self.required, seen: 0 })
    }
}

/// The fields of an object, and which of the required ones have come.
struct Fields<A> {
    map: A,
    required: &'static [&'static str],
    /// One bit each.
    seen: u32,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Fields<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        if self.required.is_empty() {
            return self.map.next_key_seed(seed);
        }
        let key = self.map.next_key_seed(Key { of: seed, required: self.required, seen: &mut self.seen })?;
        let missing = |(bit, _): &(usize, _)| self.seen & (1 << bit) == 0;
        match self.required.iter().enumerate().find(missing) {
            Some((_, field)) if key.is_none() => Err(A::Error::missing_field(field)),
            _ => Ok(key),
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.map.next_value_seed(Strict(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.map.size_hint()
    }
}

/// The name of a field, noted on its way: seed, deserializer and visitor.
struct Key<'k, T> {
    of: T,
    required: &'static [&'static str],
    seen: &'k mut u32,
}

impl<T> Key<'_, T> {
    fn note(&mut self, name: &str) {
        if let Some(bit) = self.required.iter().position(|field| *field == name) {
            *self.seen |= 1 << bit;
        }
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Key<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.of.deserialize(Key { of: deserializer, required: self.required, seen: self.seen })
    }
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Key<'_, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.of.deserialize_any(Key { of: visitor, required: self.required, seen: self.seen })
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Key<'_, V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.of.expecting(formatter)
    }

    fn visit_str<E: Error>(mut self, name: &str) -> Result<V::Value, E> {
        self.note(name);
        self.of.visit_str(name)
    }

    fn visit_borrowed_str<E: Error>(mut self, name: &'de str) -> Result<V::Value, E> {
        self.note(name);
        self.of.visit_borrowed_str(name)
    }

    fn visit_string<E: Error>(mut self, name: String) -> Result<V::Value, E> {
        self.note(&name);
        self.of.visit_string(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{Process, Spec};

    #[test]
    fn a_list_is_no_object_at_any_depth() {
        let whole = r#"{"ociVersion":"1.3.0","process":{"user":{"uid":0,"gid":0},"cwd":"/","rlimits":[
            {"type":"RLIMIT_CORE","soft":0,"hard":0}]}}"#;
        from_slice::<Spec>(whole.as_bytes()).unwrap();
        for (object, list) in [
            (r#"{"uid":0,"gid":0}"#, "[0,0]"),
            (r#"{"type":"RLIMIT_CORE","soft":0,"hard":0}"#, r#"["RLIMIT_CORE",0,0]"#),
        ] {
            let error = from_slice::<Spec>(whole.replace(object, list).as_bytes()).unwrap_err();
            assert!(error.to_string().contains("sequence"), "{error}");
        }
    }

    /// An object of each kind in the configuration that has every field, in the order of [`REQUIRED`].
    const PLACES: [&str; REQUIRED.len()] = [
        "/process/consoleSize",
        "/linux/devices/0",
        "/linux/resources/devices/0",
        "/linux/resources/hugepageLimits/0",
        "/linux/uidMappings/0",
        "/process/ioPriority",
        "/linux/resources/network/priorities/0",
        "/linux/resources/blockIO/throttleReadBpsDevice/0",
        "/linux/resources/blockIO/weightDevice/0",
        "/process/rlimits/0",
        "/root",
        "/process/user",
    ];

    #[test]
    fn each_required_field_is_missed_where_it_is_not() {
        let full: Value = serde_json::from_str(include_str!("../../tests/full.json")).unwrap();
        for ((object, fields), place) in REQUIRED.into_iter().zip(PLACES) {
            for field in fields {
                let mut without = full.clone();
                without.pointer_mut(place).unwrap().as_object_mut().unwrap().remove(*field).unwrap();
                let error = from_value::<Spec>(without).expect_err(object);
                assert!(error.to_string().contains(&format!("missing field `{field}`")), "{object}: {error}");
            }
        }
    }

    #[test]
    fn a_missing_user_id_is_not_root() {
        let text = r#"{"cwd":"/","args":["a"],"user":{"gid":7}}"#;
        let error = locate::<Process>(text.as_bytes()).unwrap();
        assert!(error.path().to_string().starts_with("user"), "{}", error.path());
        assert!(error.to_string().contains("missing field `uid`"), "{error}");
    }
}
