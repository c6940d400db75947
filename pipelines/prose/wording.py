"""The words by which mail programs introduce what they quote, in the languages that they speak.

Lists and patterns, no logic. All patterns are linear: what repeats is possessive or cannot overlap with what follows.
"""

from __future__ import annotations

import re

# "On Monday Ann wrote:" — the beginning and the verb, language by language.
_INTRODUCTIONS = {
    "en": (r"On|At", r"wrote|writes|said"),
    "de": (r"Am|Den|Um", r"schrieb|schrieben|geschrieben"),
    "fr": (r"Le|En date du", r"a écrit|a ecrit|écrivait|écrit"),
    "es": (r"El|En", r"escribió|escribio|ha escrito"),
    "pt": (r"Em|A|Aos|No dia", r"escreveu|escreve"),
    "it": (r"Il(?: giorno)?|In data", r"ha scritto|scrive"),
    "nl": (r"Op", r"schreef|geschreven"),
    "sv, da, no": (r"Den|På|Kl|Le|Fra", r"skrev|skrev følgende"),
    "fi": (r"", r"kirjoitti"),
    "pl": (r"W dniu|Dnia|Dn\.", r"napisał|napisała|napisał\(a\)|napisał\(-a\)|pisze"),
    "cs, sk": (r"Dne|Dňa", r"napsal|napsala|napsal\(a\)|napísal|napísala|napísal\(a\)|odesílatel"),
    "hu": (r"", r"ezt írta|írta"),
    "ro": (r"În|Pe|La", r"a scris"),
    "tr": (r"", r"şunu yazdı|şunları yazdı|yazdı"),
    "ru": (r"", r"написал|написала|написал\(а\)|писал|писала|пишет"),
    "uk": (r"", r"написав|написала|написав\(-ла\)|пише"),
    "el": (r"Στις|Την|Ο", r"έγραψε"),
    "bg": (r"На", r"написа"),
    "he": (r"", r"כתב|כתבה|מאת"),
    "ar": (r"", r"كتب"),
    "ja": (r"", r"のメール|さんは書きました|wrote"),
    "zh": (r"在|于|於", r"写道|寫道"),
    "ko": (r"", r"작성|님이 작성"),
    "vi": (r"Vào", r"đã viết"),
    "id": (r"Pada", r"menulis"),
}
# These need no space in front of them.
_EAST = frozenset({"ja", "zh", "ko"})
_START_WORD = re.compile(
    "(?:" + "|".join(start for start, _ in _INTRODUCTIONS.values() if start) + r")(?![^\W\d_])"
)
_START_DAY = re.compile(r"\S{0,15}\s?\d")
_START_ADDRESS = re.compile(r"<?[^\s<>@]+@")
_VERB = re.compile(
    "|".join(
        (r"(?:" if language in _EAST else r"(?<![^\W_])(?:") + verb + r")(?![^\W\d_])"
        for language, (_, verb) in _INTRODUCTIONS.items()
    ),
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"[^\s<>@]@[^\s<>@]")
_DAY = re.compile(r"\d{4}|\d{1,2}[./-]\d")
_TIME = re.compile(r"\d{1,2}[:.h時时]\d\d|\d ?[ap]\.?m")
_COLON = re.compile(r"[:：]\s*$")
_LONGEST_INTRODUCTION = 400

# The fields of the block that Outlook and others put above what they quote: From, Sent, To, Cc, Subject.
_FIELDS = {
    "from": "From|Von|De|Da|Van|Från|Fra|Od|От|От кого|Kimden|Gönderen|Lähettäjä|Feladó|De la|Expéditeur|Από|Від|Dari|Từ|"
    "Mittente|Remitente|Remetente|Afzender|Nadawca|Odesílatel|差出人|发件人|寄件者|寄件人|보낸 사람|보낸사람|מאת|من",
    "sent": "Sent|Date|Gesendet|Datum|Envoyé|Envoyé le|Enviado|Enviado el|Fecha|Enviada|Enviado em|Enviada em|Data|"
    "Inviato|Verzonden|Skickat|Sendt|Dato|Wysłano|Wysłane|Odesláno|Odoslané|Dátum|Отправлено|Дата|Надіслано|"
    "Gönderildi|Gönderme Tarihi|Tarih|Lähetetty|Päivämäärä|Päivä|Elküldve|Küldve|Trimis|Dată|Στάλθηκε|Ημερομηνία|Dikirim|"
    "Tanggal|Ngày|Đã gửi|送信日時|送信|日付|日時|发送时间|发送日期|日期|時間|寄件日期|보낸 날짜|날짜|נשלח|תאריך|تاريخ|تم الإرسال",
    "to": "To|An|À|A|Para|Aan|Till|Til|Do|Komu|Кому|Kime|Alıcı|Vastaanottaja|Címzett|Către|Pro|Προς|Kepada|Đến|"
    "Destinataire|Destinatario|Destinatário|Adresat|宛先|收件人|收件者|받는 사람|받는사람|אל|إلى",
    "copy": "Cc|Kopie|Copie|Copia|Cópia|Kopia|Kopi|Kopio|Копия|Копія|Bilgi|DW|Κοιν|抄送|副本|참조|Bcc|Reply-To|"
    "Importance|Wichtigkeit|Priorität|Antwort an|Répondre à|Responder a",
    "subject": "Subject|Betreff|Betr|Objet|Asunto|Assunto|Oggetto|Onderwerp|Ämne|Emne|Temat|Předmět|Predmet|Тема|Konu|"
    "Aihe|Tárgy|Subiect|Θέμα|Subjek|Perihal|Chủ đề|件名|主题|主題|主旨|제목|נושא|الموضوع",
}
_FIELD_OF = {label.casefold(): field for field, labels in _FIELDS.items() for label in labels.split("|")}
_LABEL = re.compile(r"[*\s|]{0,4}([^\W\d_][\w .-]{0,18}?)\s?\*{0,2}\s?[:：]")

# The line that stands alone above a quoted or forwarded message.
_RULES = (
    "Original Message|Original message|Original Appointment|Ursprüngliche Nachricht|Originalnachricht|Original-Nachricht|"
    "Ursprünglicher Termin|Message d'origine|Message original|Mensaje original|Mensagem original|Mensagem Original|"
    "Messaggio originale|Oorspronkelijk bericht|Oorspronkelijk Bericht|Ursprungligt meddelande|Originalmeddelande|"
    "Oprindelig meddelelse|Opprinnelig melding|Alkuperäinen viesti|Wiadomość oryginalna|Oryginalna wiadomość|"
    "Původní zpráva|Pôvodná správa|Исходное сообщение|Пересылаемое сообщение|Оригінальне повідомлення|Orijinal Mesaj|"
    "Özgün İleti|Eredeti üzenet|Mesaj original|Αρχικό μήνυμα|原始邮件|原始郵件|原邮件|元のメッセージ|원본 메일|원본 메시지|"
    "Forwarded message|Forwarded Message|Weitergeleitete Nachricht|Message transféré|Mensaje reenviado|"
    "Mensagem encaminhada|Messaggio inoltrato|Messaggio Inoltrato|Doorgestuurd bericht|Vidarebefordrat meddelande|"
    "Videresendt meddelelse|Videresendt melding|Wiadomość przekazana|Treść przekazanej wiadomości|Přeposlaná zpráva|"
    "Пересланное сообщение|İletilmiş mesaj|Továbbított üzenet|Edelleenlähetetty viesti|转发的邮件|轉寄郵件|転送メッセージ|"
    "Reply message|Antwort Nachricht|Reply to message"
)
_RULE_WORDS = frozenset(_RULES.casefold().split("|"))
_DRAWN = "-_=*—–"
_FORWARD = re.compile(
    r"(?:Begin forwarded message|Anfang der weitergeleiteten (?:Nachricht|E-Mail)|Début du message (?:réexpédié|transféré)"
    r"|Inicio del mensaje reenviado|Início da mensagem (?:reencaminhada|encaminhada)|Inizio (?:del )?messaggio inoltrato"
    r"|Begin doorgestuurd bericht|Vidarebefordrat brev|Start på videresendt (?:besked|melding)"
    r"|Välitetty viesti alkaa|Początek przekazywanej wiadomości|Začátek přeposílané zprávy|Начало переадресованного "
    r"сообщения|İletilen mesajın başlangıcı|転送されたメッセージ|以下是转发的邮件|下面是被转发的邮件|開始轉寄郵件|전달된 메시지 시작)\s?[:：]\s*",
    re.IGNORECASE,
)
_LINE = re.compile(r"[-_=—–*]{3,80}")

# The last line of those who wrote on a telephone, or who let their program speak for itself.
_DEVICE = (
    r"(?:i(?:Phone|Pad|Pod|OS)|Android|Samsung|Galaxy|BlackBerry|Windows|Outlook|Yahoo|Nokia|HTC|Huawei|Xiaomi|Pixel|"
    r"Mail|Gmail|GMX|WEB\.DE|Proton|Thunderbird|AOL|Fairphone|mobil|Handy|Smartphone|phone|telefon|télé|tablet|móvil|"
    r"celular|cellulare|Мобильн|Яндекс)"
)
_MOBILE = re.compile(
    "|".join(
        (
            r"Sent from my [^\n]{1,60}",
            (
                rf"(?:Sent (?:from|with|via|using)|(?:Diese (?:Nachricht|E-?Mail|Mail) wurde |Gesendet )(?:von|mit|aus)|Von mein\w+|"
                r"Envoyé (?:de|depuis|avec|à partir)|Enviad[oa] (?:desde|do|da|de|a partir|con|com|pelo)|Inviato (?:da|dal|con)|"
                r"Ver(?:zonden|stuurd) (?:van|vanaf|met|via)|(?:Skickat|Sendt) (?:från|fra|med|via)|Lähetetty|Wysłan[eo] (?:z|za)|"
                r"Od(?:esláno|oslané) z|Отправлено (?:с|из)|Надіслано (?:з|із)|Trimis (?:de pe|din)|(?:Elk|K)üldve|Dikirim dari|"
                rf"Được gửi từ|(?:Στάλθηκε|Απεστάλη) από)\b[^\n]{{0,60}}{_DEVICE}[^\n]{{0,60}}"
            ),
            r"[^\n]{0,40}Outlook (?:for|für|pour|para|per|voor|för|til|dla|для|pro) (?:iOS|Android|Mac)\b[^\n]{0,70}",
            rf"{_DEVICE}[^\n]{{0,25}}(?:gönderildi|küldve|から送信|에서 보냄|傳送|发送)[^\n]{{0,5}}",
            rf"(?:发自|從|从|나의) ?[^\n]{{0,20}}{_DEVICE}[^\n]{{0,25}}",
            rf"(?:أُرسلت|أرسلت|נשלח)[^\n]{{0,30}}{_DEVICE}[^\n]{{0,25}}",
        )
    ),
    re.IGNORECASE,
)
_LONGEST_MOBILE = 140
# The foot that Mailman and others put under a message of a list.
_LIST_FOOT = re.compile(
    r"\S{1,80} mailing list\b|To unsubscribe|You received this message because", re.IGNORECASE
)


def introduces(text: str, *, before_quote: bool) -> bool:
    """Whether a line such as "On Monday, Ann <ann@example.com> wrote:" introduces what follows.

    Directly `before_quote` a day, a time or an address suffices, in any language, or a verb. Before unmarked text the
    beginning and the verb have to be known, and an address or both a day and a time have to be there.
    """
    text = text.strip(" \t*_")
    if len(text) > _LONGEST_INTRODUCTION or _COLON.search(text[-5:]) is None:
        return False
    has_verb = _VERB.search(text) is not None
    has_address, has_day, has_time = (found.search(text) is not None for found in (_ADDRESS, _DAY, _TIME))
    if before_quote:
        return has_verb or has_address or has_day or has_time
    has_start = any(found.match(text) for found in (_START_WORD, _START_DAY, _START_ADDRESS))
    return has_verb and has_start and (has_address or (has_day and has_time))


def begins_with_word(text: str) -> bool:
    """Whether a line begins like an introduction that was wrapped: "On Mon, Jan 5,"."""
    return _START_WORD.match(text.strip(" \t*_")) is not None and any(
        letter.isdigit() for letter in text[:100]
    )


def begins_with_day(text: str) -> bool:
    """Whether a line begins with a day, as introductions do in languages that put the verb last."""
    return _START_DAY.match(text.strip(" \t*_")) is not None


def field_of(text: str) -> str | None:
    """Return which field of a quoted header a line is: from, sent, to, copy or subject."""
    # Most lines have no colon where one belongs.
    match = _LABEL.match(text) if ":" in text[:40] or "：" in text[:40] else None
    return None if match is None else _FIELD_OF.get(match[1].strip().casefold())


def is_rule(text: str) -> bool:
    """Whether a line stands alone above a quoted or forwarded message, such as `-----Original Message-----`."""
    text = text.strip()
    if len(text) > 200:
        return False
    if text[:1] in _DRAWN:
        return text[1:2] in _DRAWN and text.strip(_DRAWN + " :").casefold() in _RULE_WORDS
    return _FORWARD.fullmatch(text) is not None


def is_line(text: str) -> bool:
    """Whether a line is drawn with hyphens, underscores or the like."""
    return _LINE.fullmatch(text.strip()[:100]) is not None


def is_mobile(text: str) -> bool:
    """Whether a line says from what kind of device or program a message was sent."""
    text = text.strip(" \t*_.[]")
    return len(text) <= _LONGEST_MOBILE and _MOBILE.fullmatch(text) is not None


def is_list_foot(text: str) -> bool:
    """Whether a line begins the foot of a mailing list."""
    return _LIST_FOOT.match(text[:200].strip()) is not None
