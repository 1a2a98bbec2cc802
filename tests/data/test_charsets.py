"""One decision about the encoding of a whole corpus."""

import codecs
import random

import pytest

from hf_multimodal.data.charsets import CANDIDATES, check_encoding, choose_encoding, decode_file, decode_texts

CORPORA = {
    "gb18030": [
        "今天的天气真好，适合出去玩",
        "这家餐厅的菜很难吃",
        "祝大家新年快乐！",
        "手机又坏了,气死我了",
        "比赛输了",
    ],
    "big5": [
        "今天的天氣真好，適合出去玩",
        "這家餐廳的菜很難吃",
        "祝大家新年快樂！",
        "手機又壞了,氣死我了",
        "比賽輸了",
    ],
    "cp932": [
        "今日はとても楽しかったです",
        "写真を撮りました",
        "悲しいニュースばかりだ",
        "ありがとう！",
        "雨が降って残念",
    ],
    "euc_jp": [
        "今日はとても楽しかったです",
        "写真を撮りました",
        "悲しいニュースばかりだ",
        "ありがとう！",
        "雨が降って残念",
    ],
    "cp949": [
        "오늘 날씨가 정말 좋네요",
        "이 식당 음식은 별로예요",
        "새해 복 많이 받으세요",
        "고양이가 귀여워요",
        "너무 슬프다",
    ],
    "cp1251": ["Сегодня отличная погода", "Очень грустно", "С новым годом!", "Кошка спит на диване", "Мы проиграли"],
    "koi8_r": ["Сегодня отличная погода", "Очень грустно", "С новым годом!", "Кошка спит на диване", "Мы проиграли"],
    "koi8_u": ["Сьогодні чудова погода", "Дуже сумно, їй-богу", "З новим роком!", "Кішка спить на дивані", "Її ґанок"],
    "cp866": ["Сегодня отличная погода", "Очень грустно", "С новым годом!", "Кошка спит на диване", "Мы проиграли"],
    "iso8859_5": [
        "Сегодня отличная погода",
        "Очень грустно",
        "С новым годом!",
        "Кошка спит на диване",
        "Мы проиграли",
    ],
    "cp1250": [
        "Dziś jest piękna pogoda",
        "Jestem bardzo smutny, żal",
        "Příliš žluťoučký kůň",
        "Śpiący kot",
        "Přišla zima",
    ],
    "iso8859_2": [
        "Dziś jest piękna pogoda",
        "Jestem smutny, żal mi",
        "Příliš žluťoučký kůň",
        "Śpiący kot",
        "Přišla zima",
    ],
    "cp1253": ["Σήμερα είναι ωραία μέρα", "Είμαι πολύ λυπημένος", "Καλή χρονιά!", "Η γάτα κοιμάται", "Χάσαμε"],
    "cp1254": [
        "Bugün hava çok güzel",
        "Çok üzgünüm, ağlıyorum",
        "Yeni yılınız kutlu olsun!",
        "Kedi uyuyor, şşş",
        "Kaybettik ığ",
    ],
    "cp1255": ["היום מזג האוויר נפלא", "אני עצוב מאוד", "שנה טובה!", "החתול ישן על הספה", "הפסדנו במשחק"],
    "cp1256": ["الطقس جميل اليوم", "أنا حزين جدا", "سنة جديدة سعيدة!", "القطة نائمة على الأريكة", "خسرنا المباراة"],
    "cp1257": [
        "Šiandien gražus oras",
        "Man labai liūdna, gaila",
        "Laimingų Naujųjų metų!",
        "Katė miega ant sofos",
        "Tai mūsų šuo",
    ],
    "cp874": ["วันนี้อากาศดีมาก", "ฉันเศร้ามาก", "สวัสดีปีใหม่!", "แมวนอนอยู่บนโซฟา", "เราแพ้"],
    "cp1252": ["Où est le café près d’ici ?", "Das Wetter ist schön", "El niño está feliz", "Déjà vu…", "São Paulo"],
}


@pytest.mark.parametrize("encoding", CANDIDATES)
def test_each_candidate_is_chosen_for_its_own_corpus(encoding):
    assert choose_encoding([text.encode(encoding) for text in CORPORA[encoding]]) == encoding


@pytest.mark.parametrize("encoding", ["gb18030", "big5", "cp932", "cp949", "cp1251", "cp1252"])
def test_short_texts_alone_are_read_right(encoding):
    for text in CORPORA[encoding]:
        content = text.encode(encoding)
        assert content.decode(choose_encoding([content])) == text


def test_ellipses_and_quotes_of_a_chinese_system_around_english():
    texts = ["RT “@someone: what a day… ", "love this place #art…", "the band’s new album"]
    assert choose_encoding([text.encode("gb18030") for text in texts]) == "gb18030"
    assert choose_encoding([text.encode("cp1252") for text in texts]) == "cp1252"


def test_one_text_cut_inside_a_character_overrules_nothing():
    contents = [text.encode("gb18030") for text in CORPORA["gb18030"]] + ["我们很高兴".encode("gb18030")[:-1]]
    decoded = decode_texts(contents)
    assert decoded.texts == [*CORPORA["gb18030"], None]
    assert decoded.encodings == ["gb18030"] * 5 + [None]


def test_order_is_mark_then_utf8_then_decision(caplog):
    contents = [
        codecs.BOM_UTF8 + "é".encode(),
        codecs.BOM_UTF16_LE + "é".encode("utf-16-le"),
        codecs.BOM_UTF32_BE + "é".encode("utf-32-be"),
        "é 今".encode(),
        "我们很高兴".encode("gb18030"),
    ]
    decoded = decode_texts(contents)
    assert decoded.texts == ["é", "é", "é", "é 今", "我们很高兴"]
    assert decoded.encodings == ["utf-8-sig", "utf-16", "utf-32", "utf-8", "gb18030"]
    assert "1 of 5 texts are not UTF-8: read as gb18030 (chosen for the whole corpus), 0 of them" in caplog.text


def test_encoding_overrides_the_decision_only():
    decoded = decode_texts(["naïve".encode(), "naïve".encode("latin-1")], encoding="iso8859_15")
    assert decoded.texts == ["naïve", "naïve"]
    assert decoded.encodings == ["utf-8", "iso8859_15"]
    with pytest.raises(ValueError, match="encoding 'gb18031' is not known to Python. Did you mean 'gb18030'?"):
        decode_texts([b""], encoding="gb18031")
    assert check_encoding("UTF-8") == "UTF-8"


def test_table_is_decoded_by_its_lines():
    lines = "id,text\n1,今天的天气真好\n2,手机又坏了\n"
    assert decode_file(lines.encode("gb18030"), "a.csv") == (lines, "gb18030")
    assert decode_file(lines.encode("utf-8-sig"), "a.csv") == (lines, "utf-8-sig")
    mostly = ("id,text\n" + "1,今天的天气真好\n" * 5).encode() + b"2,\xff\xfe\n"
    with pytest.raises(ValueError, match="a.csv, line 7: not readable as utf-8"):
        decode_file(mostly, "a.csv")
    with pytest.raises(ValueError, match="a.csv, line 2: not readable as shift_jis"):
        decode_file("id\n\x80\xff".encode("latin-1"), "a.csv", "shift_jis")


def test_a_macron_among_latin_texts_decides_nothing():
    """Read as cp1250 it is a letter, and where all else reads alike it once made Catalan Czech."""
    texts = ["RT @ham: ¯500 | HAM #pixiv", "és indignant que la gent no s’enrecordi d’això!", "this place…"]
    assert choose_encoding([text.encode("cp1252") for text in texts]) == "cp1252"


def test_real_texts_in_every_candidate(real_data):
    """All texts that an encoding can write are read right, and so are twenty of those that hold a letter.

    Most of the texts hold dots and quotes alone, which all code pages of Windows write alike. Of fifty such texts one
    or two may hold a word, and three of a hundred draws then read one Russian word as Greek: too little to tell by.
    """
    folder = real_data / "ecnu" / "data"
    contents = [path.read_bytes() for path in sorted(folder.glob("*.txt"))]
    decoded = decode_texts(contents)
    assert decoded.encodings.count("gb18030") == 1131
    assert decoded.encodings.count("utf-8") == 3738
    draw = random.Random(0)
    tried = []
    for encoding in CANDIDATES:
        if encoding == "cp1257":  # of all texts it writes one word otherwise than cp1252: Qur'ān, or Qur'ân
            continue
        own, telling = [], []
        for text in decoded.texts:
            content = text.encode(encoding, "ignore")
            if not content.isascii() and content.decode(encoding) == text:
                own.append(content)
                if any(char.isalpha() and not char.isascii() for char in text):
                    telling.append(content)
        if len(own) < 50 or len(telling) < 20:  # nobody wrote so
            continue
        tried.append(encoding)
        for sample in (own, *(draw.sample(telling, 20) for _ in range(5))):
            chosen = choose_encoding(sample)
            assert [content.decode(chosen) for content in sample] == [content.decode(encoding) for content in sample]
    assert tried == ["gb18030", "cp1252", "big5", "cp932", "cp949", "euc_jp", "cp1251", "cp1250", "cp1254", "cp1256"]


def test_a_row_of_utf8_in_a_table_of_another_encoding_is_read_as_such(caplog):
    rows = [text.encode("cp1252") for text in CORPORA["cp1252"]]
    rows.insert(2, "Ça va très bien".encode())
    text, encoding = decode_file(b"\n".join(rows), "table.csv")
    assert encoding == "cp1252"
    assert text.split("\n") == [*CORPORA["cp1252"][:2], "Ça va très bien", *CORPORA["cp1252"][2:]]
    assert "table.csv is not UTF-8: read as cp1252. `encoding` overrides this." in caplog.text
    assert "table.csv: 1 lines among them are UTF-8 and read as such: 3." in caplog.text
    asked, _ = decode_file(b"\n".join(rows), "table.csv", "cp1252")
    assert asked.split("\n")[2] == "Ã‡a va trÃ¨s bien"
