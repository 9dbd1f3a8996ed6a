"""Short texts that are hard to split into sentences, in many languages: (language, what is hard, text). A sentence
begins after each ¦, which is no part of the text."""

from __future__ import annotations

MARK = "¦"

CASES: tuple[tuple[str, str, str], ...] = (
    ("en", "stops", "The rain fell. ¦Did you hear it? ¦I did! ¦We all did."),
    ("en", "stops", "What?! ¦You cannot mean it!! ¦I do."),
    ("en", "titles", "Mr. Fox met Dr. A. B. Hen at St. Mary's. ¦They talked."),
    ("en", "titles", "Prof. Owl wrote to Mrs. Mole, cf. the letter of Gov. Badger. ¦She answered."),
    ("en", "numbers", "It costs 3.50 pounds. ¦See p. 7, vol. 2 and fig. 11. ¦Pay at no. 5."),
    ("en", "numbers", "She earned $40.00. ¦It was not much."),
    ("en", "acronyms", "He lives in the U.K. with a cat, i.e. not alone. ¦The cat sleeps."),
    ("en", "addresses", "Write to a.mole@river.example.org or see www.river.example.org/a.html for more. ¦Thank you."),
    ("en", "quotations", '"Come in!" she said. ¦"It is cold." ¦He came in.'),
    ("en", "quotations", "“Is it far?” asked the boy. ¦“Not very,” said she. ¦“Come.”"),
    ("en", "quotations", "'Run!' cried Tom. ¦'They are here.'"),
    ("en", "brackets", "He sat down (the chair was wet.) and rose. ¦(Nobody laughed.) ¦He left."),
    ("en", "dots", "I thought . . . well, never mind. ¦She waited... ¦Then she spoke."),
    ("en", "dots", "He wanted… no, he did not. ¦She smiled."),
    ("en", "pronoun", "So it was you and I. ¦Then came Albert I. Mole."),
    ("en", "numbered list", "1. The first thing. ¦2. The second thing. ¦3. The last thing."),
    ("en", "numbered list", "Bring these:\n¦1) a rope\n¦2) a lamp\n¦3) two loaves"),
    ("en", "numbered list", "(1) one thing\n¦(2) another thing"),
    ("en", "numbered list", "a) tea\n¦b) milk\n¦c) sugar"),
    ("en", "numbered list", "1) The one thing ¦2) The other thing"),
    ("en", "numbered list", "i) the head\n¦ii) the tail"),
    ("en", "bulleted list", "We need:\n¦- bread\n¦- cheese\n¦- wine"),
    ("en", "bulleted list", "• Sweep the floor. ¦• Wash the cups."),
    ("en", "bulleted list", "* one * star\n¦* two"),
    ("en", "hard lines", "The river ran\nslowly past Dr.\nMole and his\nfriends. ¦They did not\nsee it."),
    ("en", "hard lines", "It was a remark-\nable sight. ¦No one ex-\npected it."),
    ("en", "heading", "The River Bank\n\n¦The mole had been working very hard."),
    ("en", "dialogue", "— Where to? ¦— Home, said he. ¦— Good."),
    ("de", "stops", "Es regnet. ¦Hörst du es? ¦Ja!"),
    ("de", "titles", "Herr Dr. med. Maulwurf kam z. B. am Montag. ¦Frau Prof. Eule kam nicht."),
    ("de", "dates", "Wir treffen uns am 3. Oktober um zwei. ¦Komm nicht zu spät."),
    ("de", "quotations", "„Komm herein“, sagte sie. ¦„Es ist kalt.“ ¦Er kam herein."),
    ("de", "quotations", "»Wirklich?« ¦»Ja!« ¦Er lachte."),
    ("de", "numbers", "Das kostet 1.000,50 Euro, vgl. Abb. 3 und Nr. 4. ¦Zu viel."),
    ("fr", "quotations", "« Entrez ! » dit-elle."),
    ("fr", "quotations", "« Il fait froid. » ¦Il entra."),
    ("fr", "stops", "Il pleut ! ¦L’entends-tu ? ¦Oui."),
    ("fr", "titles", "Mme Taupe et M. Hibou vinrent. ¦Ils parlèrent."),
    ("fr", "dialogue", "Il ouvrit la porte.\n¦— Où vas-tu ?\n¦— À la maison."),
    ("es", "stops", "¿Llueve? ¦¡Sí! ¦Llueve mucho."),
    ("es", "titles", "El Sr. Topo y la Sra. Lechuza hablaron. ¦Luego se fueron."),
    ("es", "dialogue", "—¿Adónde vas? —preguntó. ¦—A casa."),
    ("it", "titles", "Il sig. Talpa e la dott. Civetta parlarono. ¦Poi andarono."),
    ("pt", "titles", "O Sr. Toupeira e o Dr. Mocho falaram. ¦Depois foram."),
    ("nl", "titles", "Dhr. Mol en mevr. Uil praatten. ¦Toen gingen ze."),
    ("pl", "titles", "Przyszedł dr Kret, np. w piątek. ¦Potem poszedł."),
    ("sv", "stops", "Det regnar. ¦Hör du det? ¦Ja!"),
    ("ru", "stops", "Идёт дождь. ¦Слышишь? ¦Да!"),
    ("ru", "initials", "А. С. Кротов пришёл к проф. Сове. ¦Они говорили."),
    ("ru", "dialogue", "Он открыл дверь.\n¦— Куда ты?\n¦— Домой."),
    ("ru", "colon", "Он сказал: приходи завтра. ¦Она пришла."),
    ("uk", "stops", "Іде дощ. ¦Чуєш? ¦Так!"),
    ("el", "question", "Βρέχει. ¦Το ακούς; ¦Ναι!"),
    ("ka", "stops", "წვიმს. ¦გესმის? ¦დიახ!"),
    ("hy", "stops", "Անձրև է գալիս։ ¦Լսում ես։ ¦Այո։"),
    ("he", "stops", "יורד גשם. ¦אתה שומע? ¦כן!"),
    ("ar", "stops", "المطر ينزل. ¦هل تسمعه؟ ¦نعم!"),
    ("ar", "no space", "هل تسمعه؟¦نعم."),
    ("fa", "stops", "باران می‌بارد. ¦می‌شنوی؟ ¦بله!"),
    ("ur", "stops", "بارش ہو رہی ہے۔ ¦کیا تم سنتے ہو؟ ¦ہاں۔"),
    ("hi", "stops", "बारिश हो रही है। ¦क्या तुम सुनते हो? ¦हाँ!"),
    ("hi", "no space", "बारिश हो रही है।¦वह आया।"),
    ("hi", "verse", "वह आया ॥ ¦वह गया ॥"),
    ("mr", "stops", "पाऊस पडत आहे. ¦ऐकतोस का? ¦हो!"),
    ("bn", "stops", "বৃষ্টি হচ্ছে। ¦শুনছ? ¦হ্যাঁ!"),
    ("pa", "stops", "ਮੀਂਹ ਪੈ ਰਿਹਾ ਹੈ। ¦ਉਹ ਆਇਆ।"),
    ("ta", "stops", "மழை பெய்கிறது. ¦கேட்கிறதா? ¦ஆம்!"),
    ("si", "stops", "වැස්ස වැටෙනවා. ¦ඇහෙනවාද? ¦ඔව්!"),
    ("zh", "stops", "下雨了。¦你听见了吗？¦听见了！"),
    ("zh", "quotations", "“下雨了。”他说。"),
    ("zh", "quotations", "她说：“进来吧。”¦他进来了。"),
    ("zh", "ASCII marks", "你听见了吗?¦听见了!¦走吧。"),
    ("ja", "stops", "雨が降っている。¦聞こえますか？¦はい！"),
    ("ja", "quotations", "「雨だ。」と彼は言った。¦彼女は笑った。"),
    ("ja", "numbers", "値段は３．５円です．¦高いです．"),
    ("ko", "stops", "비가 온다. ¦들리니? ¦응!"),
    ("th", "spaces", "ฝนตกหนักมากตั้งแต่เช้า ¦เขาไม่ได้ออกจากบ้านเลย ¦เธอนั่งอ่านหนังสืออยู่คนเดียว"),
    ("lo", "spaces", "ຝົນຕົກໜັກຫຼາຍແຕ່ເຊົ້າ ¦ລາວບໍ່ໄດ້ອອກຈາກເຮືອນ"),
    ("km", "stops", "ភ្លៀងធ្លាក់។ ¦គាត់មិនចេញក្រៅទេ។ ¦នាងញញឹម។"),
    ("km", "etc.", "មានបាយ ត្រី ។ល។ នៅទីនេះ។ ¦គាត់ញ៉ាំ។"),
    ("my", "stops", "မိုးရွာနေသည်။ ¦သူမထွက်ပါ။ ¦သူပြုံးသည်။"),
    ("my", "no space", "မိုးရွာနေသည်။¦သူမထွက်ပါ။"),
    ("bo", "shad", "ཆར་པ་བབས། ¦ཁོ་ཕྱི་ལ་མ་སོང་། ¦མོ་དགོད།"),
    ("am", "stops", "ዝናብ ይዘንባል። ¦ትሰማለህ? ¦አዎ።"),
    ("am", "no space", "ዝናብ ይዘንባል።¦አዎ።"),
    ("kk", "stops", "Жаңбыр жауып тұр. ¦Естисің бе? ¦Иә!"),
    ("vi", "stops", "Trời mưa. ¦Bạn có nghe không? ¦Có!"),
    ("tr", "stops", "Yağmur yağıyor. ¦Duyuyor musun? ¦Evet!"),
    ("fi", "stops", "Sataa. ¦Kuuletko? ¦Kyllä!"),
)


def cases() -> list[tuple[str, str, str, list[int]]]:
    """(language, what is hard, text, where sentences begin but the first) of each case, in code points."""
    found = []
    for language, kind, marked in CASES:
        pieces = marked.split(MARK)
        starts, position = [], 0
        for piece in pieces[:-1]:
            position += len(piece)
            starts.append(position)
        found.append((language, kind, "".join(pieces), starts))
    return found
