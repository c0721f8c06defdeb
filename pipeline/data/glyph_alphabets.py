"""The alphabets of the glyphs data set: characters that the DejaVu fonts draw.

By script and case; large scripts are cut into several alphabets. No two characters of a
script look alike under any rotation, since augmentation rotates freely: the cosine of their
blurred pictures in DejaVu Sans stays under 0.95 at every turn by tens of degrees. As in Omniglot,
related scripts share shapes (Latin, Greek and Cyrillic capitals).
"""

from __future__ import annotations

GLYPH_ALPHABETS: dict[str, str] = {
    "Latin_upper": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "Latin_lower": "abcdefghijkmnorstvwxyz",
    "Latin_extended_upper_1": "ÆÐØÞĦŁŊŒŦƁƂƄƆƇƊƋƎƏƐƑƓƔƖƗƘƜƝƟƢƤ",
    "Latin_extended_upper_2": "ƦƧƩƬƮƱƲƳƵƷƸƼǤǶǷȜȢȤȺȻȽȾɁɃɄɅɆɈɊɌ",
    "Latin_extended_lower_1": "ßæðøþđħıĸŋœŧƀƃƈƌƍƒƕƙƛƣƨƪƫƭƴƶƹƺ",
    "Latin_extended_lower_2": "ƽƾƿǝǥȝȡȣȥȴȵȶȷȸȼȿɀɂɇɉɋɍɏⱡⱥⱦⱨⱪⱬⱱ",
    "Phonetic_1": "ɐɑɓɔɕɖɗɘəɚɛɜɝɞɟɠɡɢɣɤɥɧɨɩɪɫɬɭɮ",
    "Phonetic_2": "ɯɰɱɲɳɴɵɶɷɸɹɺɻɽɾɿʀʁʂʃʅʆʇʈʉʊʋʌʍ",
    "Phonetic_3": "ʎʏʐʑʒʓʔʕʘʙʛʜʝʞʟʠʣʤʥʦʧʨʩʪʫʬʭʮʯ",
    "Greek_upper": "ͰͲͶΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩ",
    "Greek_lower": "αβγδεζηθικλμνξοπρςστυφχψωϗϙϛϝϟ",
    "Cyrillic_upper": "ЂЄЅІЈЉЊЋЏАБВГДЕЖЗИКЛМНОПРСТУФХЦЧШЩЪЫ",
    "Cyrillic_lower": "абвгдежзиклмнопрстуфхцчшщъыьэюяђѕіјљ",
    "Cyrillic_extended_1": "ѠѢѤѦѨѪѬѮѰѲѴѸѺѼѾҀҊҌҎҐҒҔҖҘҚҜҞҠҢҤ",
    "Cyrillic_extended_2": "ҦҨҪҬҮҰҲҴҶҸҺҼҾӀӃӅӇӉӋӍӔӘӠӶӺӼӾԀԂԄ",
    "Armenian_upper": "ԱԲԳԴԵԶԷԸԹԺԻԼԽԾԿՀՁՂՃՄՅՇՈՉՊՋՌՎՏՐՒՓՔՕՖ",
    "Armenian_lower": "աբգդեէըթժիլխծկհձճմյշոչպջռվտրցւփքօֆ",
    "Mkhedruli_(Georgian)": "აბგდევზთიკლმნოპჟრსტუფქღყჩცძწჭჯჰჱჲჴჵჶ",
    "Asomtavruli_(Georgian)": "ႠႡႢႣႤႥႦႧႨႩႪႫႬႭႮႯႰႲႴႵႶႷႸႹႺႼႽႾႿჀჁჂჃჄჅ",
    "Nuskhuri_(Georgian)": "ⴀⴁⴂⴃⴄⴅⴆⴇⴈⴉⴋⴎⴏⴒⴓⴔⴕⴗⴘⴙⴛⴜⴝⴞⴟⴠⴡⴢⴤⴥ",
    "Hebrew": "אבגדהוזחטיךכלםמנעףפץצקרשת",
    "Arabic_1": "ءابةتثجخدذرزسشصضطعغفقكلمنه",
    "Arabic_2": "وىيٮٯٹٻټٽځڈډڊڋڍڎڑڒړڔڕڗژښڞڠ",
    "Lao": "ກຂຄງຈຊຍດຕຖທນບປຜຝພມຢຣລວສຫອຮຯະາຽແໂໃໄ",
    "N_Ko": "ߊߋߌߍߎߏߐߑߒߓߔߕߖߗߘߙߚߛߜߝߞߟߠߢߣߤߥ",
    "Tifinagh": "ⴰⴱⴲⴳⴵⴶⴷⴹⴻⴼⴽⴾⴿⵁⵂⵃⵄⵅⵆⵇⵈⵉⵊⵋⵌⵍ",
    "Lisu": "ꓐꓑꓓꓔꓖꓗꓙꓚꓜꓝꓟꓠꓡꓢꓣꓥꓧꓪꓫꓬꓮꓰꓲꓳꓴ",
    "Old_Italic": "𐌀𐌁𐌂𐌃𐌄𐌅𐌆𐌇𐌈𐌉𐌊𐌋𐌌𐌍𐌎𐌏𐌐𐌑𐌒𐌓𐌔𐌕𐌖𐌗𐌘𐌙𐌚𐌛𐌜𐌝𐌞",
    "Ogham": "ᚁᚂᚃᚄᚅᚋᚌᚍᚎᚏᚐᚑᚒᚓᚔᚕᚖᚗᚘᚙᚚ",
    "Canadian_syllabics_1": "ᐁᐂᐄᐅᐆᐋᐌᐍᐏᐑᐒᐓᐔᐕᐘᐙᐚᐝᐟᐡᐤᐥᐦᐩᐪᐫᐬᐭ",
    "Canadian_syllabics_2": "ᐮᐯᐰᐲᐳᐴᐹᐺᐻᐼᐿᑀᑁᑂᑃᑄᑅᑆᑇᑌᑍᑏᑐᑑᑖᑗᑘᑛ",
    "Canadian_syllabics_3": "ᑜᑝᑞᑟᑠᑣᑤᑥᑧᑨᑩᑪᑫᑬᑭᑮᑰᑱᑳᑴᑵᑶᑷᑸᑹᑼᑽᒀ",
    "Canadian_syllabics_4": "ᒁᒂᒃᒅᒆᒇᒈᒉᒊᒋᒌᒎᒏᒑᒒᒓᒔᒕᒖᒗᒚᒛᒞᒟᒠᒡᒣᒤ",
    "Canadian_syllabics_5": "ᒥᒦᒨᒩᒫᒬᒭᒮᒯᒰᒱᒲᒴᒵᒷᒸᒹᒺᒼᓁᓂᓃᓅᓇᓈᓊᓍᓐ",
    "Canadian_syllabics_6": "ᓒᓓᓔᓖᓘᓙᓛᓜᓝᓞᓟᓠᓡᓢᓣᓤᓥᓦᓧᓨᓩᓪᓬᓭᓮᓯᓰᓲ",
}
