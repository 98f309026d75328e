//! JSON objects as `google.protobuf.Struct`: claims, and what else has no fixed form.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value as ProtoValue};
use serde_json::{Map, Value};

/// All claims of a validated token. `aud` becomes a list even where the token has a string, as
/// clients expect; numbers become doubles, which is what the format has.
pub fn claims(mut claims: Map<String, Value>) -> Struct {
    if let Some(audience) = claims
        .get_mut("aud")
        .filter(|audience| audience.is_string())
    {
        *audience = Value::Array(vec![audience.take()]);
    }
    object(claims)
}

/// A struct of these members.
pub fn object(members: Map<String, Value>) -> Struct {
    let fields = members
        .into_iter()
        .map(|(name, value)| (name, to_value(value)));
    Struct {
        fields: fields.collect(),
    }
}

fn to_value(value: Value) -> ProtoValue {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(flag),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(items) => Kind::ListValue(ListValue {
            values: items.into_iter().map(to_value).collect(),
        }),
        Value::Object(members) => Kind::StructValue(object(members)),
    };
    ProtoValue { kind: Some(kind) }
}

/// The JSON that a struct stands for; numbers that are whole come back as whole numbers.
pub fn to_json(fields: Struct) -> Map<String, Value> {
    let members = fields.fields.into_iter();
    members
        .map(|(name, value)| (name, from_value(value)))
        .collect()
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "only where the number is whole and small"
)]
fn from_value(value: ProtoValue) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(flag)) => flag.into(),
        Some(Kind::NumberValue(n)) if n.fract() == 0.0 && n.abs() <= EXACT => (n as i64).into(),
        Some(Kind::NumberValue(n)) => n.into(),
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(from_value).collect(),
        Some(Kind::StructValue(fields)) => Value::Object(to_json(fields)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_keep_their_shape_and_aud_is_always_a_list() {
        let token = json!({
            "aud": "vault", "exp": 1_800_000_000, "ratio": 0.5, "none": null, "flag": true,
            "nested": {"list": [1, "a", {"b": []}]},
        });
        let mut expected = token.clone();
        expected["aud"] = json!(["vault"]);
        let through = to_json(claims(token.as_object().unwrap().clone()));
        assert_eq!(Value::Object(through), expected);
    }
}
