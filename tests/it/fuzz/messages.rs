//! Random messages of any method, made from the descriptors of the contract: a new method or field needs no code here.

use std::collections::{BTreeMap, HashMap};

use prost_reflect::{
    DescriptorPool, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey,
    MessageDescriptor, MethodDescriptor, Value,
};

use super::texts;
use crate::support::{random::Random, world::hours_ago};

const TIMESTAMP: &str = "google.protobuf.Timestamp";
/// Values of each field that are remembered for later requests.
const MAX_SEEN: usize = 40;
/// How deep fields are inside of others.
const MAX_DEPTH: usize = 4;
/// Texts that make some requests valid, by the names of fields.
const VALID: [(&str, &str); 14] = [
    ("account_id", "acct"),
    ("account_id", "acct"),
    ("account_id", "other"),
    ("account_ids", "acct"),
    ("meter", "api_calls"),
    ("meter", "tokens"),
    ("default_meter", "api_calls"),
    ("customer", "cus_acct"),
    ("customer_id", "cus_acct"),
    ("subscription", "sub_cus_acct"),
    ("time_zone", "Europe/Vienna"),
    ("note", "a note"),
    ("reason", "a reason"),
    ("name", "backend"),
];

/// The methods of the contract that are called, in the order of their paths.
pub(super) fn methods() -> Vec<(String, MethodDescriptor)> {
    let mut pool = DescriptorPool::new();
    for set in [
        usage_proto::v1::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
    ] {
        pool.decode_file_descriptor_set(set).unwrap();
    }
    let mut found: Vec<(String, MethodDescriptor)> = pool
        .services()
        .flat_map(|service| {
            let name = service.full_name().to_owned();
            let methods = service.methods().collect::<Vec<_>>();
            methods
                .into_iter()
                .map(move |method| (format!("/{name}/{}", method.name()), method))
        })
        .collect();
    found.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    found
}

/// A method, and a field of its request by the fields that lead to it; none for the request as a whole.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) path: String,
    pub(super) method: MethodDescriptor,
    field: Vec<FieldDescriptor>,
}

/// Each of these methods, and each field of their requests.
pub(super) fn targets(methods: &[(String, MethodDescriptor)]) -> Vec<Target> {
    let mut found = Vec::new();
    for (path, method) in methods {
        let mut fields = vec![Vec::new()];
        walk(&method.input(), &mut Vec::new(), &mut fields);
        found.extend(fields.into_iter().map(|field| Target {
            path: path.clone(),
            method: method.clone(),
            field,
        }));
    }
    found
}

fn walk(
    of: &MessageDescriptor,
    path: &mut Vec<FieldDescriptor>,
    found: &mut Vec<Vec<FieldDescriptor>>,
) {
    for field in of.fields() {
        path.push(field.clone());
        found.push(path.clone());
        let has_fields = !field.is_map() && path.len() < MAX_DEPTH;
        if let Kind::Message(inner) = field.kind()
            && has_fields
            && inner.full_name() != TIMESTAMP
        {
            walk(&inner, path, found);
        }
        path.pop();
    }
}

impl Target {
    /// A request with the field set, to a hostile value in most cases.
    pub(super) fn message(&self, random: &mut Random, seen: &Seen) -> DynamicMessage {
        message_with(random, seen, &self.method.input(), &self.field)
    }
}

fn message_with(
    random: &mut Random,
    seen: &Seen,
    of: &MessageDescriptor,
    field: &[FieldDescriptor],
) -> DynamicMessage {
    let mut made = message(random, seen, of, 0);
    let Some((first, rest)) = field.split_first() else {
        return made;
    };
    let value = match first.kind() {
        Kind::Message(inner) if !rest.is_empty() => {
            let inner = Value::Message(message_with(random, seen, &inner, rest));
            if first.is_list() {
                Value::List(vec![inner])
            } else {
                inner
            }
        }
        _ => field_value(random, seen, first, 0, false),
    };
    made.set_field(first, value);
    made
}

/// Texts that answers had, by the name of their field.
#[derive(Default)]
pub(super) struct Seen(BTreeMap<String, Vec<String>>);

impl Seen {
    /// Remembers the texts of an answer.
    pub(super) fn read(&mut self, message: &DynamicMessage) {
        for (field, value) in message.fields() {
            self.read_value(field.name(), value);
        }
    }

    fn read_value(&mut self, name: &str, value: &Value) {
        match value {
            Value::String(text) if !text.is_empty() && text.len() < 500 => {
                let known = self.0.entry(name.to_owned()).or_default();
                if known.len() < MAX_SEEN && !known.contains(text) {
                    known.push(text.clone());
                }
            }
            Value::Message(inner) => self.read(inner),
            Value::List(items) => items.iter().for_each(|item| self.read_value(name, item)),
            _ => {}
        }
    }

    /// A text of a field with this name, or of one that names the same thing.
    pub(super) fn pick(&self, random: &mut Random, name: &str) -> Option<String> {
        let of = match name {
            "page_token" => "next_page_token",
            "report_id" | "key_id" | "id" => "id",
            name => name,
        };
        let known = self.0.get(of).or_else(|| self.0.get(name))?;
        let place = random.below(i64::try_from(known.len()).unwrap());
        known.get(usize::try_from(place).unwrap()).cloned()
    }
}

/// A message with any fields set.
pub(super) fn message(
    random: &mut Random,
    seen: &Seen,
    of: &MessageDescriptor,
    depth: u32,
) -> DynamicMessage {
    if of.full_name() == TIMESTAMP {
        return timestamp(random, of);
    }
    let mut made = DynamicMessage::new(of.clone());
    // Some requests are valid but for one field.
    let is_mostly_valid = random.one_in(2);
    for field in of.fields() {
        let is_set = if is_id(field.name()) {
            !random.one_in(10)
        } else {
            random.one_in(3)
        };
        if is_set && depth < 5 {
            let value = field_value(random, seen, &field, depth, is_mostly_valid);
            made.set_field(&field, value);
        }
    }
    made
}

fn is_id(name: &str) -> bool {
    name.ends_with("account_id") || name == "idempotency_key"
}

fn field_value(
    random: &mut Random,
    seen: &Seen,
    field: &FieldDescriptor,
    depth: u32,
    is_mostly_valid: bool,
) -> Value {
    let one = |random: &mut Random| {
        value(
            random,
            seen,
            (&field.kind(), field.name()),
            (depth, is_mostly_valid),
        )
    };
    if field.is_map() {
        return map(random, seen, field, depth);
    }
    if !field.is_list() {
        return one(random);
    }
    let length = match random.below(30) {
        0 => 1_001,
        1..=4 => 0,
        5..=20 => 1,
        _ => random.below(6),
    };
    Value::List((0..length).map(|_| one(random)).collect())
}

fn map(random: &mut Random, seen: &Seen, field: &FieldDescriptor, depth: u32) -> Value {
    let kind = field.kind();
    let entry = kind.as_message().unwrap();
    let (key, of) = (entry.map_entry_key_field(), entry.map_entry_value_field());
    let length = if random.one_in(20) {
        200
    } else {
        random.below(4)
    };
    let entries = (0..length).map(|_| {
        let key = match key.kind() {
            Kind::String => MapKey::String(texts::text(random)),
            other => panic!("maps with keys of {other:?} are not made yet"),
        };
        (
            key,
            value(random, seen, (&of.kind(), of.name()), (depth, false)),
        )
    });
    Value::Map(entries.collect::<HashMap<_, _>>())
}

fn value(
    random: &mut Random,
    seen: &Seen,
    (kind, name): (&Kind, &str),
    (depth, is_mostly_valid): (u32, bool),
) -> Value {
    let number = texts::number(random);
    let narrow = i32::try_from(number)
        .unwrap_or_else(|_| if random.one_in(2) { i32::MAX } else { i32::MIN });
    match kind {
        Kind::Bool => Value::Bool(random.one_in(2)),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(narrow),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(number),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(narrow.cast_unsigned()),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(number.cast_unsigned()),
        Kind::Float => Value::F32(f32::NAN),
        Kind::Double => Value::F64(random.pick(&[f64::NAN, f64::INFINITY, -0.0, 1e308, 0.5])),
        Kind::String => Value::String(string(random, seen, name, is_mostly_valid)),
        Kind::Bytes => Value::Bytes(texts::bytes(random, 300).into()),
        Kind::Enum(of) => Value::EnumNumber(enum_number(random, of, narrow)),
        Kind::Message(of) => Value::Message(message(random, seen, of, depth + 1)),
    }
}

fn string(random: &mut Random, seen: &Seen, name: &str, is_mostly_valid: bool) -> String {
    let valid: Vec<&str> = VALID
        .iter()
        .filter(|(of, _)| *of == name)
        .map(|(_, text)| *text)
        .collect();
    let is_hostile = if is_mostly_valid {
        random.one_in(8)
    } else {
        random.one_in(2)
    };
    if is_hostile {
        return texts::text(random);
    }
    if !valid.is_empty() && !random.one_in(4) {
        return random.pick(&valid).to_owned();
    }
    seen.pick(random, name)
        .unwrap_or_else(|| format!("{name}-{}", random.below(50)))
}

fn enum_number(random: &mut Random, of: &EnumDescriptor, other: i32) -> i32 {
    if random.one_in(4) {
        return other;
    }
    let numbers: Vec<i32> = of.values().map(|value| value.number()).collect();
    random.pick(&numbers)
}

/// A time of the last weeks, or one that no calendar has.
fn timestamp(random: &mut Random, of: &MessageDescriptor) -> DynamicMessage {
    let mut made = DynamicMessage::new(of.clone());
    let (seconds, nanos) = if random.one_in(2) {
        let now = hours_ago(0).timestamp();
        (now - random.below(40 * 86_400) + 3_600, 0)
    } else {
        let nanos = random.pick(&[0, -1, 1_000_000_000, i32::MAX, i32::MIN, 999_999_999]);
        (texts::number(random), nanos)
    };
    made.set_field_by_name("seconds", Value::I64(seconds));
    made.set_field_by_name("nanos", Value::I32(nanos));
    made
}
