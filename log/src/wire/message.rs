//! The macro that declares messages: one line a field, from which decoding, encoding and defaults come.
//!
//! ```text
//! messages! {
//!     Name {
//!         field: Type [versions] nullable [versions] tag N = default;
//!     }
//! }
//! ```
//!
//! `[versions]` is a range of message versions that carry the field. `nullable` (for `Option`) names those in which null
//! is allowed, all of them when it is left out. `tag` makes it a tagged field: sent when it differs from its default, in
//! ascending order. A field that a version does not carry has its default.

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident {
        $($(#[$field_doc:meta])* $field:ident: $type:ty [$versions:expr]
            $(nullable [$nullable:expr])? $(tag $tag:literal)? $(= $default:expr)?;)*
    })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, PartialEq)]
            pub struct $name {
                $($(#[$field_doc])* pub $field: $type,)*
            }

            impl Default for $name {
                fn default() -> Self {
                    $name { $($field: messages!(@default $($default)?),)* }
                }
            }

            impl $crate::wire::primitive::Wire for $name {
                fn size_min(form: $crate::wire::primitive::Form) -> usize {
                    let mut size = usize::from(form.flexible);
                    $(messages!(@plain [$($tag)?] {
                        if ($versions).contains(&form.version) {
                            size += <$type as $crate::wire::primitive::Wire>::size_min(form);
                        }
                    });)*
                    size
                }

                fn decode(
                    from: &mut $crate::wire::primitive::Reader,
                    form: $crate::wire::primitive::Form,
                ) -> Result<Self, $crate::wire::primitive::DecodeError> {
                    use $crate::wire::primitive::Wire;
                    let mut value = Self::default();
                    $(messages!(@plain [$($tag)?] {
                        if ($versions).contains(&form.version) {
                            value.$field = Wire::decode(from, form)?;
                            $(if value.$field.is_null() && !($nullable).contains(&form.version) {
                                return Err($crate::wire::primitive::DecodeError::Null);
                            })?
                        }
                    });)*
                    if form.flexible {
                        from.tagged(|tag, _field| {
                            match tag {
                                $($($tag if ($versions).contains(&form.version) => {
                                    value.$field = Wire::decode(_field, form)?;
                                })?)*
                                _ => return Ok(false),
                            }
                            #[allow(unreachable_code, reason = "a message without tagged fields knows none")]
                            Ok(true)
                        })?;
                    }
                    Ok(value)
                }

                fn encode(
                    &self,
                    to: &mut $crate::wire::primitive::Writer,
                    form: $crate::wire::primitive::Form,
                ) {
                    #[allow(unused_imports, reason = "a message may have no field at all")]
                    use $crate::wire::primitive::Wire;
                    $(messages!(@plain [$($tag)?] {
                        if ($versions).contains(&form.version) {
                            self.$field.encode(to, form);
                        }
                    });)*
                    if form.flexible {
                        let tagged = [$(messages!(@is_tagged [$($tag)?]) && ($versions).contains(&form.version) && {
                            let default: $type = messages!(@default $($default)?);
                            self.$field != default
                        }),*];
                        to.uvarint(tagged.iter().filter(|&&sent| sent).count() as u32);
                        let mut tagged = tagged.into_iter();
                        $(let _sent = tagged.next() == Some(true);
                        $(if _sent {
                            to.tagged($tag, |to| self.$field.encode(to, form));
                        })?)*
                    }
                }
            }

            #[cfg(test)]
            impl $crate::wire::tests::Sample for $name {
                fn sample(random: &mut $crate::wire::tests::Random, version: i16) -> Self {
                    let mut value = Self::default();
                    $(if ($versions).contains(&version) {
                        value.$field = $crate::wire::tests::Sample::sample(random, version);
                        $(if !($nullable).contains(&version) {
                            while $crate::wire::primitive::Wire::is_null(&value.$field) {
                                value.$field = $crate::wire::tests::Sample::sample(random, version);
                            }
                        })?
                    })*
                    let _ = random;
                    value
                }
            }
        )*
    };
    (@default) => { Default::default() };
    (@default $default:expr) => { $default };
    (@is_tagged []) => { false };
    (@is_tagged [$tag:literal]) => { true };
    (@plain [] $code:block) => { $code };
    (@plain [$tag:literal] $code:block) => {};
}
