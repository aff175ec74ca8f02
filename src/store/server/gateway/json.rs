//! Messages as JSON, by the rules of protobuf and as etcd's gateway keeps them.
//!
//! Out: fields by their names in the .proto files, 64-bit numbers as text, bytes as base64, enums by name, and nothing that is
//! at its default. In: both spellings of a field, numbers as numbers or text, base64 of either alphabet with or without its
//! padding, enums by name or number. A field that nobody knows is left out; a value that cannot be meant is refused.

use bytes::{BufMut as _, Bytes, BytesMut};
use prost_reflect::{DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, SerializeOptions};
use serde_json::Value;
use tokio::sync::Semaphore;
use tonic::Status;

use crate::api::Message as _;
use crate::base::stop::blocking;

/// Large messages that are turned into the other form at once: in between they take fifty times their size.
static TURNS: Semaphore = Semaphore::const_new(2);
/// More is turned into the other form on a thread for blocking work.
const INLINE_BYTES_MAX: usize = 64 << 10;
/// Of a frame, before its message: whether it is compressed, and its length.
pub(super) const FRAME_HEAD_BYTES: usize = 5;

/// The frame of the message that a text begins with; that of an empty message if there is none. What follows is not read.
pub(super) async fn frame(message: &MessageDescriptor, text: Bytes) -> Result<Bytes, Status> {
    let message = message.clone();
    if text.len() <= INLINE_BYTES_MAX {
        return parsed(&message, &text);
    }
    let _turn = TURNS.acquire().await;
    blocking(move || parsed(&message, &text)).await
}

fn parsed(message: &MessageDescriptor, text: &[u8]) -> Result<Bytes, Status> {
    let wrong = |error: serde_json::Error| Status::invalid_argument(format!("the request is no JSON of this: {error}"));
    let mut value = match serde_json::Deserializer::from_slice(text).into_iter::<Value>().next() {
        None => Value::Null,
        Some(value) => value.map_err(wrong)?,
    };
    keep_known(message, &mut value);
    let message = match value {
        Value::Null => DynamicMessage::new(message.clone()),
        value => DynamicMessage::deserialize_with_options(message.clone(), value, &DeserializeOptions::new())
            .map_err(wrong)?,
    };
    let bytes = message.encoded_len();
    let length = u32::try_from(bytes).map_err(|_| Status::resource_exhausted("the request is too large"))?;
    let mut frame = BytesMut::with_capacity(FRAME_HEAD_BYTES + bytes);
    frame.put_u8(0);
    frame.put_u32(length);
    message.encode_raw(&mut frame);
    Ok(frame.freeze())
}

/// Leaves out fields that a message does not have.
fn keep_known(message: &MessageDescriptor, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| field(message, name).is_some());
            for (name, value) in fields {
                if let Some(Kind::Message(inner)) = field(message, name).map(|field| field.kind()) {
                    keep_known(&inner, value);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| keep_known(message, value)),
        _ => {}
    }
}

fn field(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    message.get_field_by_json_name(name).or_else(|| message.get_field_by_name(name))
}

/// A message as text.
pub(super) async fn text(message: &MessageDescriptor, bytes: Bytes) -> Result<Bytes, Status> {
    let message = message.clone();
    if bytes.len() <= INLINE_BYTES_MAX {
        return told(message, bytes);
    }
    let _turn = TURNS.acquire().await;
    blocking(move || told(message, bytes)).await
}

fn told(message: MessageDescriptor, bytes: Bytes) -> Result<Bytes, Status> {
    let options = SerializeOptions::new().use_proto_field_name(true);
    let message = DynamicMessage::decode(message, bytes).map_err(|error| Status::internal(error.to_string()))?;
    let mut text = serde_json::Serializer::new(vec![]);
    message.serialize_with_options(&mut text, &options).map_err(|error| Status::internal(error.to_string()))?;
    Ok(for_pages(text.into_inner()).into())
}

/// A text with its quotes.
pub(super) fn quoted(text: &str) -> String {
    let quoted = for_pages(Value::from(text).to_string().into_bytes());
    String::from_utf8(quoted).unwrap_or_default()
}

/// The same JSON without characters that mean something in a web page, as Go writes it. None of them is JSON's own.
fn for_pages(json: Vec<u8>) -> Vec<u8> {
    if !json.iter().any(|c| matches!(c, b'<' | b'>' | b'&')) {
        return json;
    }
    let mut safe = Vec::with_capacity(json.len() + 64);
    for c in json {
        match c {
            b'<' => safe.extend_from_slice(b"\\u003c"),
            b'>' => safe.extend_from_slice(b"\\u003e"),
            b'&' => safe.extend_from_slice(b"\\u0026"),
            c => safe.push(c),
        }
    }
    safe
}

/// Where JSON values end in a stream of them, found as the bytes come: each byte is looked at once.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    looked: usize,
    depth: usize,
    quoted: bool,
    escaped: bool,
}

impl Cutter {
    /// Takes the next whole value from the front of what has come; none when more is to come.
    pub(super) fn cut(&mut self, come: &mut BytesMut) -> Option<Bytes> {
        if self.looked == 0 {
            let blank = come.iter().take_while(|c| c.is_ascii_whitespace()).count();
            drop(come.split_to(blank));
        }
        while let Some(c) = come.get(self.looked).copied() {
            self.looked += 1;
            if self.ends(c) {
                let value = come.split_to(self.looked).freeze();
                *self = Cutter::default();
                return Some(value);
            }
        }
        None
    }

    fn ends(&mut self, c: u8) -> bool {
        if self.quoted {
            self.quoted = self.escaped || c != b'"';
            self.escaped = !self.escaped && c == b'\\';
            return false;
        }
        match c {
            b'"' => self.quoted = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.depth == 0 && matches!(c, b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t')
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{DESCRIPTORS, etcdserverpb as pb};
    use prost_reflect::DescriptorPool;

    fn message(name: &str) -> MessageDescriptor {
        DescriptorPool::decode(DESCRIPTORS).unwrap().get_message_by_name(&format!("etcdserverpb.{name}")).unwrap()
    }

    fn range(text: &str) -> Result<pb::RangeRequest, String> {
        let frame = parsed(&message("RangeRequest"), text.as_bytes()).map_err(|status| status.message().to_owned())?;
        assert_eq!(u32::from_be_bytes(frame[1..5].try_into().unwrap()) as usize, frame.len() - FRAME_HEAD_BYTES);
        Ok(pb::RangeRequest::decode(frame.slice(FRAME_HEAD_BYTES..)).unwrap())
    }

    #[test]
    fn requests_are_read_in_every_spelling() {
        let expected =
            pb::RangeRequest { key: b"\xfb\xff".to_vec().into(), limit: 7, sort_order: 2, ..Default::default() };
        for text in [
            r#"{"key":"+/8=","limit":"7","sort_order":"DESCEND"}"#,
            r#"{"key":"-_8","limit":7,"sortOrder":2} and what follows"#,
            r#" {"key":"+/8","limit":7,"sortOrder":"DESCEND","unknown":{"key":[1]},"serializable":null}"#,
            r#"{"key":"YQ==","key":"+/8=","limit":7,"sort_order":"DESCEND"}"#,
        ] {
            assert_eq!(range(text).unwrap(), expected, "{text}");
        }
        for text in ["", " \n", "null", "{}"] {
            assert_eq!(range(text).unwrap(), pb::RangeRequest::default(), "{text:?}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in [
            "nonsense",
            "[]",
            "7",
            "{\"key\":",
            r#"{"key":7}"#,
            r#"{"key":"!!"}"#,
            r#"{"limit":"x"}"#,
            r#"{"limit":1.5}"#,
            r#"{"limit":9223372036854775808}"#,
            r#"{"sort_order":"SIDEWAYS"}"#,
            r#"{"serializable":"true"}"#,
        ] {
            assert!(range(text).is_err(), "{text}");
        }
        let deep = r#"{"success":[{"request_txn":"#.repeat(1000);
        assert!(parsed(&message("TxnRequest"), deep.as_bytes()).is_err());
    }

    #[test]
    fn replies_are_written_as_etcd_writes_them() {
        let header = pb::ResponseHeader { cluster_id: u64::MAX, revision: -1, ..Default::default() };
        let kv = crate::api::mvccpb::KeyValue { key: vec![0xfb, 0xff, 1].into(), lease: 9, ..Default::default() };
        let reply = pb::RangeResponse { header: Some(header), kvs: vec![kv], more: true, count: 0 };
        let text = told(message("RangeResponse"), reply.encode_to_vec().into()).unwrap();
        let expected = "{\"header\":{\"cluster_id\":\"18446744073709551615\",\"revision\":\"-1\"},\
                        \"kvs\":[{\"key\":\"+/8B\",\"lease\":\"9\"}],\"more\":true}";
        assert_eq!(text, expected);
        let alarm = pb::AlarmMember { member_id: 1, alarm: pb::AlarmType::Nospace as i32 };
        let text = told(message("AlarmMember"), alarm.encode_to_vec().into()).unwrap();
        assert_eq!(text, "{\"memberID\":\"1\",\"alarm\":\"NOSPACE\"}");
        assert_eq!(quoted("a<b>&\"c\""), r#""a\u003cb\u003e\u0026\"c\"""#);
    }

    #[test]
    fn values_are_cut_where_they_end_however_they_come() {
        let text = br#" {"a":"}\"{\\"}  [1,[2]]{}
                       7 {"b":{"c":[]}} {"cut":"#;
        let expected = [r#"{"a":"}\"{\\"}"#, "[1,[2]]", "{}", "7 ", r#"{"b":{"c":[]}}"#];
        for step in [1, 2, 7, text.len()] {
            let (mut cutter, mut come, mut cut) = (Cutter::default(), BytesMut::new(), vec![]);
            for piece in text.chunks(step) {
                come.extend_from_slice(piece);
                cut.extend(std::iter::from_fn(|| cutter.cut(&mut come)));
            }
            assert_eq!(cut, expected, "in steps of {step}");
            assert_eq!(come, r#"{"cut":"#);
        }
    }
}
