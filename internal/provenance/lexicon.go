package provenance

import "strings"

// The lexicon says which words of a task call for which kind of tool. It holds
// general words of office work and software, and no name of any tool: a tool's
// own name is split into words and looked up like the task's.

// verbs maps a word to what is done.
var verbs = lexicon(`
send: send sends sending sent email emails mail mails message messages reply replies respond answer forward forwards write writes tell tells inform notify contact dm text ask asks let share say remind thank greet report deliver submit
pay: pay pays paying paid payment transfer transfers refund refunds reimburse wire remit settle purchase buy donate deposit tip
create: create creates plan make makes add adds new set schedule schedules book books plan plans organise organize arrange put save saves write store generate open start register initialise initialize build draft init file reserve reserves reservation
add: buy order purchase add adds extend append appends include insert put invite invites join attach extend
delete: delete deletes drop remove removes clear clears erase cancel cancels drop discard clean wipe trash unsubscribe empty kick uninstall
update: update updates change changes modify shift adjust adjusts edit edits reschedule reschedules move moves postpone rename set reset correct fix increase decrease replace switch alter
share: share shares grant give invite invites collaborate collaborator permission permissions access send transfer
reserve: reserve reserves reservation book books booking rent
post: create make post posts publish upload submit write comment announce put
fetch: get read reads visit browse open fetch check look see view go follow summarise summarize summary find download search click scrape load
download: download downloads save fetch get clone pull
copy: copy copies duplicate backup back
move: move moves rename relocate put
star: star stars like favourite favorite follow unstar
push: push pushes upload commit publish sync
pull: pull pulls sync fetch update download
clone: clone clones download copy checkout
checkout: checkout check buy purchase order orders pay
refund: refund refunds return returns reimburse money
input: input fill fills enter submit type log login sign register apply complete interact click
transfer: transfer transfers hand give move
login: login log sign
verify: verify confirm
run: run execute launch start
`)

// nouns maps a word to what it is done to.
var nouns = lexicon(`
money: money funds standing payment payments pay bill bills invoice rent transaction transactions transfer refund amount euro euros eur usd dollar dollars salary fee debt deposit subscription balance bank iban charge purchase tip wire
mail: send email emails mail mails inbox message messages reply newsletter
message: send tell share message messages dm chat tell text post inform channel slack note notify direct inbox
event: event events appointment appointments meeting meetings calendar lunch dinner breakfast call reminder trip party class invitation schedule sync standup workshop hike
file: file files document documents folder drive docx doc txt xlsx pdf csv list notes report spreadsheet directory dir node path content attachment attachments save download invoice readme
folder: folder folders directory directories dir path
password: password passwords passphrase credentials pin login
key: key keys ssh gpg
user: user users member members person people colleague colleagues account profile info information address name phone him her them collaborator collaborators friend team
channel: channel channels group room
web: webpage webpages page pages website websites site url urls link links article articles blog web online post posts browser form http https www internet news
repo: repo repos repository repositories git github project codebase code branch
issue: issue issues bug ticket tickets feature request
cart: cart basket shopping item items product products order orders buy purchase
product: product products item items order orders cart buy purchase thing
order: order orders purchase bought delivery refund return
hotel: hotel hotels room stay accommodation night nights
restaurant: restaurant restaurants table dinner lunch food eat meal dining place
car: car cars rental vehicle drive suv
flight: flight flights fly plane
participant: participant participants invite attendee attendees guest guests invited add
ownership: ownership owner hand transfer
discount: discount coupon code voucher
code: code codes otp verification
`)

// lexicon reads lines of a concept and the words that stand for it.
func lexicon(text string) map[string][]string {
	m := map[string][]string{}
	for line := range strings.Lines(text) {
		concept, words, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		for _, w := range append(strings.Fields(words), concept) {
			m[w] = append(m[w], concept)
		}
	}
	return m
}

// common are words that name nothing: a record that holds one is not picked
// out by it.
var common = func() map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(`a an the and or but if then else of in on at to for from by with without about into over under as is are was were be been
		do does did have has had i me my mine you your he him his she her it its we us our they them their this that these those there here
		can could will would shall should may might must please also not no yes true false none null all any each every some most more less many
		new old first last next today tomorrow yesterday day week month year time date name title file user email mail message page id number
		read write get set send make create update delete add remove find check list show tell give take use one two three
		account service group main home open subject note notes info information data result results status confirmed active received sent me re fw
		monday tuesday wednesday thursday friday saturday sunday january february march april may june july august september october november december
		jan feb mar apr jun jul aug sep oct nov dec mr mrs ms dr hi hello dear thanks thank regards best url iban format yyyy mm dd hh ss www com org net http https html txt pdf docx doc xlsx csv`) {
		m[w] = true
	}
	return m
}()

// concepts looks words up.
func concepts(dict map[string][]string, words []string) map[string]bool {
	out := map[string]bool{}
	for _, w := range words {
		for _, c := range dict[w] {
			out[c] = true
		}
	}
	return out
}

// nameWords splits an identifier into words: sendMoney, send_money,
// send-money.
func nameWords(name string) []string {
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		switch {
		case c >= 'A' && c <= 'Z':
			if i > 0 && !(name[i-1] >= 'A' && name[i-1] <= 'Z') {
				b.WriteByte(' ')
			}
			b.WriteByte(c | 0x20)
		case c == '_' || c == '-' || c == '.' || c == '/' || c == ' ':
			b.WriteByte(' ')
		default:
			b.WriteByte(c)
		}
	}
	return strings.Fields(b.String())
}
