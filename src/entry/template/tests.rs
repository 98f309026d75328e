use proptest::prelude::*;
use serde_json::json;

use super::*;

fn found(texts: &[&str]) -> SelectorSet {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn id(text: &str) -> IdTemplate {
    IdTemplate::parse(text).unwrap().0
}

#[test]
fn a_template_is_read_once_and_printed_as_it_was_written() {
    for text in [
        "",
        "plain",
        "spiffe://td/user/{unix:user}/x",
        "{docker:label:app.kubernetes.io/name}",
        "{{not a field}}",
        "a}}b{{",
    ] {
        assert_eq!(Template::parse(text).unwrap().to_string(), text);
    }
    for text in ["{", "}", "a{b", "{unix:user", "unix:user}"] {
        assert_eq!(Template::parse(text), Err(TemplateError::Brace), "{text}");
    }
    for text in [
        "{}",
        "{unix}",
        "{unix:}",
        "{:user}",
        "{unix:us er}",
        "{{{unix}",
    ] {
        assert_eq!(Template::parse(text), Err(TemplateError::Field), "{text}");
    }
}

#[test]
fn fields_of_an_id_stand_in_its_path_one_to_a_segment() {
    let refused = |text: &str| IdTemplate::parse(text).unwrap_err();
    assert_eq!(refused("spiffe://{unix:user}/a"), TemplateError::NotInPath);
    assert_eq!(refused("{unix:user}"), TemplateError::NotInPath);
    let two = "spiffe://td/{unix:user}-{unix:group}";
    assert_eq!(refused(two), TemplateError::TwoInSegment);
    let text = "spiffe://td/{unix:user}/{docker:label:a.b/c}";
    let (_, some) = IdTemplate::parse(text).unwrap();
    assert_eq!(some, "spiffe://td/x/x");
}

#[test]
fn a_caller_without_the_value_or_with_several_has_no_id() {
    let template = id("spiffe://td/user/{unix:user}");
    let user = Field("unix:user".into());
    let of = |texts: &[&str]| template.render(&found(texts));
    assert_eq!(of(&["unix:user:a"]).unwrap().as_str(), "spiffe://td/user/a");
    assert_eq!(of(&["unix:uid:1"]), Err(NoValue::None(user.clone())));
    // The beginning of a name is no name.
    assert_eq!(of(&["unix:username:a"]), Err(NoValue::None(user.clone())));
    let several = of(&["unix:user:a", "unix:user:b"]);
    assert_eq!(several, Err(NoValue::Several(user)));
}

#[test]
fn a_value_outside_the_alphabet_is_no_value_and_never_escaped() {
    let template = id("spiffe://td/user/{unix:user}");
    for value in ["a/b", "a b", "a%2Fb", "ä", "a:b", "a@b", "a\\b", "..", "."] {
        let rendered = template.render(&found(&[&format!("unix:user:{value}")]));
        assert!(rendered.is_err(), "{value}: {rendered:?}");
    }
    let hidden = id("spiffe://td/.{unix:user}");
    assert!(hidden.render(&found(&["unix:user:."])).is_err());
}

#[test]
fn claims_take_what_no_policy_gives_a_meaning_to_at_any_depth() {
    let claims =
        json!({"unit": "{systemd:id}", "n": 1, "of": ["{{x}}", {"path": "is {unix:path}"}]});
    let claims = ClaimTemplate::parse_all(claims.as_object().unwrap()).unwrap();
    let of = |texts: &[&str]| ClaimTemplate::render_all(&claims, &found(texts));
    let rendered = of(&["systemd:id:a@1.service", "unix:path:/bin/a"]).unwrap();
    let wanted = json!({"unit": "a@1.service", "n": 1, "of": ["{x}", {"path": "is /bin/a"}]});
    assert_eq!(Value::from(rendered), wanted);
    for path in [
        "/bin/*",
        "/bin/a b",
        "/bin/\"",
        "/bin/${x}",
        "/bin/+",
        "/bin/ä",
    ] {
        let path = format!("unix:path:{path}");
        assert!(of(&["systemd:id:a", &path]).is_err(), "{path}");
    }
}

#[test]
fn an_id_that_some_caller_could_come_to_is_known() {
    let template = id("spiffe://td/user/u-{unix:user}/x");
    let may_be = |text: &str| template.may_be(&text.parse().unwrap());
    assert!(may_be("spiffe://td/user/u-a/x"));
    for other in [
        "spiffe://td/user/u-/x",
        "spiffe://td/user/a/x",
        "spiffe://td/user/u-a",
        "spiffe://td/user/u-a/x/y",
        "spiffe://other/user/u-a/x",
    ] {
        assert!(!may_be(other), "{other}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_or_a_rendering_panic(text in "[{}a:/.\\PC]{0,24}", value in "\\PC{1,12}") {
        if let Ok(template) = Template::parse(&text) {
            prop_assert_eq!(Template::parse(&template.to_string()), Ok(template));
        }
        let _ = IdTemplate::parse(&text);
        if let Ok(selector) = format!("unix:user:{value}").parse() {
            let found: SelectorSet = [selector].into_iter().collect();
            let rendered = id("spiffe://td/user/{unix:user}").render(&found);
            if let Ok(rendered) = rendered {
                // What is rendered holds the value, as it is, as one whole segment.
                prop_assert_eq!(rendered.path(), format!("/user/{value}"));
                prop_assert!(!value.contains('/'));
            }
        }
    }

    #[test]
    fn callers_with_different_values_never_come_to_the_same_id(
        a in ("[a-zA-Z0-9._-]{1,6}", "[a-zA-Z0-9._-]{1,6}"),
        b in ("[a-zA-Z0-9._-]{1,6}", "[a-zA-Z0-9._-]{1,6}"),
    ) {
        let template = id("spiffe://td/u-{unix:user}/x/{unix:group}-g");
        let of = |(user, group): &(String, String)| {
            template.render(&found(&[&format!("unix:user:{user}"), &format!("unix:group:{group}")]))
        };
        if let (Ok(one), Ok(other)) = (of(&a), of(&b)) {
            prop_assert_eq!(a == b, one == other);
            prop_assert!(template.may_be(&one));
        }
    }
}
